# One image for every process of Sauda: gateway, trader, ml_service, data_service, and the `sauda` command.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS builder
# The Makefile's.
ARG UV_VERSION=0.13.9
# An index or mirror other than the tools' own; any serves, since every file is checked against its hash.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /build
# Build tools stay in an environment of their own, which the image does not get.
RUN python -m venv /opt/tools \
    && python -m venv --without-pip /opt/sauda \
    && /opt/tools/bin/pip install --quiet "uv==${UV_VERSION}"
COPY pyproject.toml uv.lock ./
RUN /opt/tools/bin/uv export --quiet --frozen --no-emit-project --only-group build --output-file build.txt \
    && /opt/tools/bin/uv export --quiet --frozen --no-emit-project --no-default-groups --output-file run.txt \
    && /opt/tools/bin/uv pip install --quiet --python /opt/tools --require-hashes --requirement build.txt \
    && /opt/tools/bin/uv pip install --quiet --python /opt/sauda --require-hashes --requirement run.txt
COPY README.md ./
COPY contracts contracts
COPY backend backend
COPY ml_service ml_service
COPY data_service data_service
COPY sauda sauda
RUN /opt/tools/bin/hatchling build --target wheel --directory dist \
    && /opt/tools/bin/uv pip install --quiet --python /opt/sauda --no-deps dist/*.whl

FROM python:${PYTHON_VERSION}-slim
RUN groupadd --system --gid 10001 sauda \
    && useradd --system --uid 10001 --gid sauda --no-create-home --home-dir /nonexistent sauda \
    && install --directory --owner sauda --group sauda --mode 0750 /data
WORKDIR /app
COPY --from=builder /opt/sauda /opt/sauda
COPY alembic.ini ./
COPY alembic alembic
# A service listens on every address of its container; compose decides which port the outside sees.
ENV PATH=/opt/sauda/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DATA_DIR=/data \
    GATEWAY_HOST=0.0.0.0 \
    ML_SERVICE_HOST=0.0.0.0 \
    DATA_SERVICE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "-m", "backend"]
