"""The command line that starts and composes the services."""
