"""The shapes that travel between the gateway, ml_service and data_service: frozen pydantic models and nothing else."""
