# syntax=docker/dockerfile:1
#
# The workload image for Confidential Space (`tee-image-reference`). What is set here is measured and shows up
# in the attestation token; the operator of the machine can change nothing of it.
#
#   docker build -t codeseal-server .
#   docker build -t codeseal-server:preview --build-arg RUNTIME_USER=0 .          (the codelab's VM image)
#   docker build -t codeseal-server:cpu --build-arg FEATURES=server .

ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian13

FROM ${CUDA_IMAGE} AS build
ARG RUST_VERSION=1.95.0
ARG FEATURES=server,cuda
# One compute capability per image: candle's quantised kernels are built for exactly one.
ARG CUDA_COMPUTE_CAP=80
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl gcc g++ \
 && rm -rf /var/lib/apt/lists/* \
 && curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs \
  | sh -s -- -y --profile minimal --default-toolchain ${RUST_VERSION}
ENV PATH=/root/.cargo/bin:${PATH} CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP}
WORKDIR /src
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY benches benches
COPY models models
COPY src src
# The sandbox feature, and with it every way to redirect a token, is not in the image.
RUN cargo build --release --locked --no-default-features --features ${FEATURES} --bin codeseal-server
# The CUDA libraries that the binary links; the driver's own come from the host, under /usr/local/nvidia.
RUN mkdir -p /out/lib && cp target/release/codeseal-server /out/ \
 && if ldd target/release/codeseal-server | grep -q libcudart; then \
      cp -L /usr/local/cuda/lib64/libcublas.so.* /usr/local/cuda/lib64/libcublasLt.so.* \
            /usr/local/cuda/lib64/libcudart.so.* /usr/local/cuda/lib64/libcurand.so.* /out/lib/; fi

# No shell, no package manager, CA certificates included.
FROM ${RUNTIME_IMAGE}
COPY --from=build /out/lib/ /usr/local/lib/codeseal/
COPY --from=build /out/codeseal-server /usr/local/bin/codeseal-server

# The launcher mounts the driver's libraries here when `tee-install-gpu-driver=true`.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/lib/codeseal

# Resource names are part of the measurement: pass them when the image is built. None of them is a secret.
ARG KMS_KEY=""
ARG WIP_AUDIENCE=""
ARG IMPERSONATE=""
ARG MODEL=hf://google/codegemma-2b
ARG PROFILE=tdx-h100
ENV CODESEAL_KMS_KEY=${KMS_KEY} \
    CODESEAL_WIP_AUDIENCE=${WIP_AUDIENCE} \
    CODESEAL_IMPERSONATE=${IMPERSONATE} \
    CODESEAL_MODEL=${MODEL} \
    CODESEAL_MODEL_CACHE=/tmp/codeseal \
    CODESEAL_PROFILE=${PROFILE}

# The only port that the launcher opens; metrics stay on loopback. /tcp, or UDP would be opened as well.
EXPOSE 8080/tcp

# The arguments that the image was built with are the arguments it runs with.
LABEL "tee.launch_policy.allow_cmd_override"="false"
# No variable may be set from outside: each would be an address, a key, a path or a log level.
LABEL "tee.launch_policy.allow_env_override"=""
# Nothing is mounted into the container; the model lives in its own encrypted disk or in memory.
LABEL "tee.launch_policy.allow_mount_destinations"=""
# Log lines hold no text, but their timing is nobody's business in production.
LABEL "tee.launch_policy.log_redirect"="debugonly"
# Neither memory nor processes are watched from outside on a production image ...
LABEL "tee.launch_policy.hardened_monitoring"="none"
# ... nor on a debug image unless somebody builds one for that.
LABEL "tee.launch_policy.debug_monitoring"="none"
# The server needs no capability and no cgroup of its own.
LABEL "tee.launch_policy.allow_capabilities"="false"
LABEL "tee.launch_policy.allow_cgroups"="false"

# Non-root. The preview VM image of the codelab mounts the token's directory with mode 0744, which only root can
# enter: build for it with RUNTIME_USER=0.
ARG RUNTIME_USER=65532:65532
USER ${RUNTIME_USER}
ENTRYPOINT ["/usr/local/bin/codeseal-server"]
