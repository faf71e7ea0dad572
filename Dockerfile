# syntax=docker/dockerfile:1
#
# The workload image for Confidential Space (`tee-image-reference`). What is set here is measured and shows up
# in the attestation token; the operator of the machine can change nothing of it.
#
#   docker build -t IMAGE --build-arg KMS_KEY=… --build-arg WIP_AUDIENCE=… .
#   docker build -t IMAGE --build-arg FEATURES=server …                      (for machines without a GPU: a small image)
#   docker build -t IMAGE --build-arg RUNTIME_USER=0 --build-arg PROFILE=shielded-preview …   (the codelab's VM image)

# Debian 12 with Rust. scripts/image.sh makes one itself where no registry is, and shows that two builds are equal.
ARG BUILD_IMAGE=rust:1.95.0-bookworm

FROM ${BUILD_IMAGE} AS build
# `server,cuda`, which runs on the CPU where there is no GPU, or `server`. Never `sandbox`: with it an operator could have
# the attestation token sent elsewhere.
ARG FEATURES=server,cuda
WORKDIR /src
# nvcc, if the program is to have CUDA kernels: of the version that the requirements pin by hash. Needs no GPU.
COPY scripts/cuda-toolkit.sh scripts/cuda-toolkit.requirements scripts/cuda-stubs.py scripts/cuda-nvcc.sh scripts/cuda-bf16.cuh scripts/
RUN case ",${FEATURES}," in \
      *,cuda,*) [ -x /opt/cuda/bin/nvcc ] || \
        { apt-get update -q && apt-get install -y -q --no-install-recommends python3-pip && \
          scripts/cuda-toolkit.sh --compiler /opt/cuda; } ;; \
    esac
COPY Cargo.toml Cargo.lock ./
COPY benches benches
# Only tests are built with it, but Cargo wants to know of it.
COPY kernels kernels
COPY models models
COPY src src
# Which GPUs the kernels are compiled for, as compute capabilities; newer ones translate those of the last.
ARG CUDA_ARCHITECTURES="75 80 89 90"
# The program is linked with stand-ins that load CUDA's libraries at their first use, so that it starts without them.
# Where it was built is no part of the program.
RUN case ",${FEATURES}," in \
      *,cuda,*) [ -e /opt/cuda/lib/stubs/libcuda.so ] || python3 scripts/cuda-stubs.py /opt/cuda/lib/stubs ;; \
    esac && \
    CUDA_HOME=/opt/cuda CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES}" \
    NVCC=/src/scripts/cuda-nvcc.sh CUDA_COMPUTE_CAP="${CUDA_ARCHITECTURES%% *}" \
    RUSTFLAGS="--remap-path-prefix=/src=codeseal --remap-path-prefix=/usr/local/cargo/registry/src=crates" \
    cargo build --profile dist --locked --no-default-features --features "${FEATURES}" --bin codeseal-server

# What the server needs of Debian, each package pinned by its hash: no shell, no package manager.
FROM ${BUILD_IMAGE} AS root
WORKDIR /work
COPY scripts/image/root.sh scripts/image/runtime.lock ./
# Base URL of a snapshot archive of Debian, for packages that mirrors no longer have. The image is the same without it.
ARG SNAPSHOT_ARCHIVE=""
RUN SNAPSHOT_ARCHIVE="${SNAPSHOT_ARCHIVE}" sh root.sh runtime.lock /root-fs

# What candle's backend loads beside the driver, cuBLAS and cuRAND, pinned by hash as well: `candle`, or `none` for an image
# in which only our own kernels run on a GPU. Without the feature `cuda` nothing is taken.
FROM ${BUILD_IMAGE} AS libraries
ARG FEATURES=server,cuda
ARG CUDA_LIBRARIES=candle
WORKDIR /work
COPY scripts/cuda-libraries.sh scripts/cuda-libraries.requirements ./
RUN mkdir -p /cuda/lib /cuda/licenses && case ",${FEATURES},/${CUDA_LIBRARIES}" in \
      *,cuda,*/candle) if [ -d /opt/cuda-libraries ]; then cp -r /opt/cuda-libraries/. /cuda; else \
        apt-get update -q && apt-get install -y -q --no-install-recommends python3-pip && ./cuda-libraries.sh /cuda; fi ;; \
      */candle | */none) ;; \
      *) echo "CUDA_LIBRARIES is candle or none" >&2; exit 64 ;; \
    esac

FROM scratch
COPY --from=root /root-fs /
# Where the loader looks by itself: LD_LIBRARY_PATH would name a second directory that code is loaded from.
COPY --from=libraries /cuda/lib /usr/lib/x86_64-linux-gnu
COPY --from=libraries /cuda/licenses /usr/share/doc/cuda-libraries
COPY --from=build /src/target/dist/codeseal-server /usr/local/bin/codeseal-server

# Where the launcher mounts the GPU driver's libraries when `tee-install-gpu-driver=true`. The image ships no
# libcuda of its own.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64

# Resource names are part of the measurement: pass them when the image is built. None of them is a secret.
ARG KMS_KEY=""
ARG WIP_AUDIENCE=""
ARG IMPERSONATE=""
# The codelab's bucket: public, so that no credential is needed where a credential could not be kept.
ARG MODEL=gs://vertex-model-garden-public-us/codegemma/codegemma-2b
ARG PROFILE=tdx
# Where the model is kept: on the VM's disk, or in memory with MODEL_CACHE=/scratch MOUNT_DESTINATIONS=/scratch.
ARG MODEL_CACHE=/tmp/codeseal
ENV CODESEAL_KMS_KEY=${KMS_KEY} \
    CODESEAL_WIP_AUDIENCE=${WIP_AUDIENCE} \
    CODESEAL_IMPERSONATE=${IMPERSONATE} \
    CODESEAL_MODEL=${MODEL} \
    CODESEAL_MODEL_CACHE=${MODEL_CACHE} \
    CODESEAL_PROFILE=${PROFILE}

# The only port that the launcher opens; metrics stay on loopback.
EXPOSE 8080/tcp

# The arguments that the image was built with are the arguments it runs with.
LABEL "tee.launch_policy.allow_cmd_override"="false"
# No variable may be set from outside: each would be an address, a key, a path or a log level.
LABEL "tee.launch_policy.allow_env_override"=""
# Nothing is mounted into the container, unless the image is built for memory (tmpfs) to keep the model in.
ARG MOUNT_DESTINATIONS=""
# What may be mounted is part of the measurement as well.
LABEL "tee.launch_policy.allow_mount_destinations"="${MOUNT_DESTINATIONS}"
# Log lines hold no text, but their timing must not be visible in production.
LABEL "tee.launch_policy.log_redirect"="debugonly"
# No monitoring of memory or processes from outside on a production image ...
LABEL "tee.launch_policy.hardened_monitoring"="none"
# ... nor on a debug image, unless it is built for that.
LABEL "tee.launch_policy.debug_monitoring"="none"
# The server needs no capability beyond containerd's defaults ...
LABEL "tee.launch_policy.allow_capabilities"="false"
# ... and no cgroup of its own.
LABEL "tee.launch_policy.allow_cgroups"="false"

# Non-root. The VM image of the codelab mounts the token's directory with mode 0744, which only root can enter:
# build for it with RUNTIME_USER=0.
ARG RUNTIME_USER=65532:65532
USER ${RUNTIME_USER}
ENTRYPOINT ["/usr/local/bin/codeseal-server"]
