#!/bin/sh
# Runs once, when PostgreSQL initialises its volume: the user that the processes log in as. It owns nothing; the
# migrations give it the roles it may take (docs/security.md).
set -eu
psql --set ON_ERROR_STOP=1 --set password="$SERVICE_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE sauda_service LOGIN NOINHERIT PASSWORD :'password';
SQL
