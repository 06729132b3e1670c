"""What a crash leaves behind: processes killed and stopped at every step, a database that falls, three traders."""
