#!/usr/bin/env bash
# Builds the workload's image with the resource names measured into it, checks its launch policy, and pushes it.
#
#   create_workload.sh [--dry-run]
#
# The image is also tagged by what it was built from; where that tag is there already, nothing is built. Both the
# Dockerfile and the built image must pass `codeseal policy lint`.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse_flags "$@"
profile
integer WORKLOAD_SCRATCH_GB
look_at_project

# Nothing can be configured later: the image's launch policy allows no overrides.
arguments=("KMS_KEY=$(kms_key)" "WIP_AUDIENCE=$WIP_AUDIENCE" "IMPERSONATE=$(email "$PRIMUS_SERVICEACCOUNT")"
  "MODEL=$WORKLOAD_MODEL" "PROFILE=$WORKLOAD_PROFILE" "RUNTIME_USER=$RUNTIME_USER")
if [ "$WORKLOAD_SCRATCH_GB" -gt 0 ]; then
  arguments+=(MODEL_CACHE=/scratch MOUNT_DESTINATIONS=/scratch)
fi
build=()
for argument in "${arguments[@]}"; do build+=(--build-arg "$argument"); done

# What the image is made of: the files that the Dockerfile copies, and the arguments.
source_id() {
  local files
  files=$(cd "$ROOT_DIR" && find Dockerfile Cargo.toml Cargo.lock benches kernels models src scripts/cuda-toolkit.sh \
    scripts/cuda-toolkit.requirements scripts/cuda-stubs.py scripts/cuda-nvcc.sh scripts/cuda-bf16.cuh \
    scripts/cuda-libraries.sh scripts/cuda-libraries.requirements scripts/image/root.sh scripts/image/runtime.lock -type f -print0 | sort -z | xargs -0 sha256sum)
  printf '%s\n%s\n' "$files" "${arguments[*]}" | sha256sum | cut -c1-12
}
tag=src-${WORKLOAD_SOURCE_ID:-$(source_id)}

say "repository $PRIMUS_ARTIFACT_REPOSITORY"
repository=("$PRIMUS_ARTIFACT_REPOSITORY" --location="$PRIMUS_PROJECT_REPOSITORY_REGION")
look artifacts repositories describe "${repository[@]}" '--format=value(name)'
if [ -n "$LOOKED" ]; then
  say "  it is there"
else
  change_gc artifacts repositories create "${repository[@]}" --repository-format=docker
fi
say "which the workload's VM may read"
grant roles/artifactregistry.reader "serviceAccount:$(email "$WORKLOAD_SERVICEACCOUNT")" artifacts repositories "${repository[@]}"

say "launch policy, for the $LAUNCHER launcher"
lint() { "$CODESEAL" policy lint --launcher "$LAUNCHER" "${build[@]}" "$@" || die "the launch policy does not pass"; }
lint "$ROOT_DIR/Dockerfile"

say "image $(image_reference)"
look_at_image "$(image_name):$tag"
built=$IMAGE_DIGEST
look_at_image "$(image_reference)"
if [ -n "$built" ] && [ "$built" = "$IMAGE_DIGEST" ]; then
  say "  it is there, from the same sources: $built"
elif [ -n "$built" ]; then
  change_gc artifacts docker tags add "$(image_name):$tag" "$(image_reference)"
else
  change "$DOCKER" build --tag "$(image_reference)" --tag "$(image_name):$tag" "${build[@]}" "$ROOT_DIR"
  if [ "$DRY_RUN" = 0 ]; then
    inspected=$(mktemp)
    trap 'rm -f "$inspected"' EXIT
    "$DOCKER" inspect "$(image_reference)" >"$inspected"
    lint --dockerfile "$ROOT_DIR/Dockerfile" "$inspected"
  fi
  change_gc auth configure-docker "$PRIMUS_PROJECT_REPOSITORY_REGION-docker.pkg.dev"
  change "$DOCKER" push "$(image_name):$tag"
  change "$DOCKER" push "$(image_reference)"
fi
say "done; next: authorize_workload.sh"
