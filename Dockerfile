# Images of the project: --target operator, router, worker or cli.
#
#   docker build --target operator -t diffusion-operator/operator:0.1.0 .
#   docker build --target router   -t diffusion-operator/router:0.1.0 .
#   docker build --target worker   -t diffusion-operator/worker:0.1.0 .
# Pin it by its digest for images that you publish: --build-arg BASE=docker.io/library/python:3.13-slim-trixie@sha256:…
ARG BASE=docker.io/library/python:3.13-slim-trixie
# The worker's torch. pypi: the wheel of PyPI, on x86-64 with NVIDIA's CUDA libraries. debian: Debian's own, for CPUs only, a
# quarter of the size; the base must then be a Debian whose python3 is of the version of the base's own.
ARG TORCH=pypi
# The worker's Mooncake. cpu: needs no CUDA. cuda: is linked to CUDA 12 (libcudart.so.12) and to the GPU's driver (libcuda.so.1);
# PyPI's torch now brings CUDA 13 alone, so in an image built of this file as it is, it does not import. Both do RDMA and TCP
# between pools in host memory, which is where they are.
ARG MOONCAKE=cpu

# Bytecode is compiled by content, not by time stamp: a reproducible build sets every file's time, which would make time-stamped
# bytecode stale, and on a read-only root file system each start would compile all of it again.

# Everything that comes from PyPI is pinned in locks/, with the hashes of its files. What is installed is listed in the image,
# as /opt/venv/sbom.cdx.json (CycloneDX); Debian's packages are in its own /var/lib/dpkg/status.

# ---- what is needed to build, and in no image ----
FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY locks/build.txt locks/sbom.txt ./
# pip has an environment of its own; /opt/venv, which images get, has none.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv \
    && /opt/pip/bin/pip install --no-compile --no-deps --require-hashes -r build.txt -r sbom.txt

# ---- our own code, one folder an image ----
FROM build AS code
COPY pyproject.toml LICENSE ./
COPY crds crds
COPY operator operator
COPY worker worker
COPY proto proto
# The package's long description, which no image shows, is no reason to build one anew.
RUN touch README.md \
    && /opt/pip/bin/pip install --no-compile --no-deps --no-build-isolation --target /opt/all . \
    && mkdir -p /code/operator /code/router /code/worker /code/cli/bin \
    && sed '1s,.*,#!/usr/bin/env python,' /opt/all/bin/dpipe > /code/cli/bin/dpipe \
    && chmod 755 /code/cli/bin/dpipe \
    && for image in operator router worker cli; do \
         cp -a /opt/all/*.dist-info /opt/all/diffusionpipeline "/code/$image/"; \
       done \
    && cp -a /opt/all/diffusion_operator /code/operator/ \
    && cp -a /opt/all/diffusion_router /code/router/ \
    && cp -a /opt/all/diffusion_worker /code/worker/ \
    && cp -a /opt/all/diffusion_operator /opt/all/dpipe /code/cli/ \
    && for image in operator router worker cli; do \
         python3 -m compileall -qq --invalidation-mode unchecked-hash -s "/code/$image" -p /opt/app "/code/$image"; \
       done

# ---- what all images have in common ----
FROM ${BASE} AS final
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.vendor="diffusion-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# HOME: user 65532 has no entry in /etc/passwd, and the Kubernetes client asks for its home as it is imported.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp \
    PYTHONPATH=/opt/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The pip of Python's public images.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip*
WORKDIR /tmp
STOPSIGNAL SIGTERM

# ---- operator ----
FROM build AS operator-dependencies
COPY locks/operator.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes -r operator.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python check \
    && /opt/pip/bin/cyclonedx-py environment --output-reproducible --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/venv/lib

FROM final AS operator
LABEL org.opencontainers.image.title="operator" \
      org.opencontainers.image.description="Makes pods of DiffusionPipelines: diffusion models on Kubernetes, cut by role"
COPY --from=operator-dependencies /opt/venv /opt/venv
COPY --from=code /code/operator /opt/app
USER 65532:65532
ENTRYPOINT ["python", "-m", "diffusion_operator"]

# ---- router ----
FROM build AS router-dependencies
COPY locks/router.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes -r router.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python check \
    && /opt/pip/bin/cyclonedx-py environment --output-reproducible --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/venv/lib

FROM final AS router
LABEL org.opencontainers.image.title="router" \
      org.opencontainers.image.description="Leads requests through the roles of a diffusion pipeline; OpenAI-compatible"
COPY --from=router-dependencies /opt/venv /opt/venv
COPY --from=code /code/router /opt/app
USER 65532:65532
ENTRYPOINT ["python", "-m", "diffusion_router"]

# ---- cli ----
FROM build AS cli-dependencies
COPY locks/cli.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes -r cli.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python check \
    && /opt/pip/bin/cyclonedx-py environment --output-reproducible --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/venv/lib

FROM final AS cli
LABEL org.opencontainers.image.title="cli" \
      org.opencontainers.image.description="dpipe: draw with diffusion pipelines, look at their peers and jobs"
COPY --from=cli-dependencies /opt/venv /opt/venv
COPY --from=code /code/cli /opt/app
ENV PATH=/opt/app/bin:$PATH
USER 65532:65532
ENTRYPOINT ["dpipe"]

# ---- worker ----
# Its dependencies are installed in place: copied from a stage, gigabytes would be stored twice.
FROM final AS worker-base
# The libraries that Mooncake's wheel expects of the system, and the providers by which libibverbs knows HCAs. Without
# versions, as Debian's security updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       ibverbs-providers libcurl4 libibverbs1 libnuma1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/apt /var/log/*.log

FROM worker-base AS worker-torch-pypi
COPY locks/torch.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes -r /build/torch.txt \
    && rm -rf /opt/pip /build \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/venv/lib

FROM worker-base AS worker-torch-debian
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-torch python3-torchvision \
    && /usr/bin/python3 -m compileall -qq -f --invalidation-mode unchecked-hash /usr/lib/python3/dist-packages \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/apt /var/log/*.log \
    && /usr/bin/python3 -m venv --without-pip --system-site-packages /opt/venv

# A stage of this file, which has no tag.
# hadolint ignore=DL3006
FROM worker-torch-${TORCH} AS worker
ARG MOONCAKE
LABEL org.opencontainers.image.title="worker" \
      org.opencontainers.image.description="Runs one role of a diffusion pipeline: encoder, denoiser, decoder or several"
# What NVIDIA's container runtime gives to the container.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY locks/worker-${MOONCAKE}.txt /build/worker.txt
COPY locks/sbom.txt /build/
# The base's python3, not that of /opt/venv, which with TORCH=debian may be another that cannot make pip.
RUN --mount=type=cache,target=/root/.cache/pip \
    PATH=${PATH#/opt/venv/bin:} python3 -m venv /opt/pip \
    && /opt/pip/bin/pip install --no-compile --no-deps --require-hashes -r /build/sbom.txt \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install --no-compile --no-deps --require-hashes \
       -r /build/worker.txt \
    && /opt/pip/bin/cyclonedx-py environment --output-reproducible \
       --output-file /opt/venv/sbom.cdx.json /opt/venv/bin/python \
    && rm -rf /opt/pip /build \
    && python3 -m compileall -qq --invalidation-mode unchecked-hash /opt/venv/lib
COPY --from=code /code/worker /opt/app
USER 65532:65532
ENTRYPOINT ["python", "-m", "diffusion_worker"]
