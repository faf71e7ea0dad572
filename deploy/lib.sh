# shellcheck shell=bash disable=SC2034
# What the scripts share: flags, dry runs, questions, looking before changing, the profiles.
# Sourced, never run. Every change of the cloud goes through `change`; everything else only looks.
set -euo pipefail

DEPLOY_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT_DIR=$(dirname "$DEPLOY_DIR")
# shellcheck source=config.env
source "$DEPLOY_DIR/config.env"

DRY_RUN=0
YES=0

say() { printf '%s\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# parse_flags "$@": --dry-run, --yes, --help; others are given to `own_flag FLAG…`, which a script may define for those
# that it alone has. One that takes a value of its own sets FLAG_WORDS to 2.
parse_flags() {
  while [ $# -gt 0 ]; do
    FLAG_WORDS=1
    case $1 in
      --dry-run) DRY_RUN=1 ;;
      --yes) YES=1 ;;
      -h | --help)
        # The comment at the head of the script is its manual.
        sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
        exit 0
        ;;
      *)
        if ! declare -F own_flag >/dev/null || ! own_flag "$@"; then die "no such flag: $1 (see --help)"; fi
        ;;
    esac
    [ "$FLAG_WORDS" -le $# ] || die "$1 needs a value (see --help)"
    shift "$FLAG_WORDS"
  done
  [ -n "$PRIMUS_PROJECT_ID" ] || die "PRIMUS_PROJECT_ID is not set: export it, or write it into deploy/config.env"
}

# A command as it could be typed.
quoted() {
  local word line=""
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=,@%+^~*-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/\'\\\'\'}'"
    fi
  done
  printf '%s' "${line# }"
}

# change COMMAND…: says what is done, and does it unless this is a dry run.
change() {
  say "+ $(quoted "$@")"
  [ "$DRY_RUN" = 1 ] || "$@" >/dev/null
}

# gc COMMAND…: gcloud in the company's project.
gc() { "$GCLOUD" "$@" --project="$PRIMUS_PROJECT_ID"; }
# change_gc COMMAND…: the same, for what changes something.
change_gc() { change "$GCLOUD" "$@" --project="$PRIMUS_PROJECT_ID" --quiet; }

# look COMMAND…: what gcloud says goes to LOOKED, which is empty where there is no such thing. Any other failure ends
# the script: not being allowed to look must not be taken for there being nothing. (No function here prints its result:
# in `$(…)` such a failure would be lost.)
LOOKED=""
look() {
  local errors
  errors=$(mktemp)
  if LOOKED=$(gc "$@" 2>"$errors"); then
    rm -f "$errors"
    return 0
  fi
  LOOKED=""
  if grep -qiE 'not[_ ]found|does not exist' "$errors"; then
    rm -f "$errors"
    return 0
  fi
  cat "$errors" >&2
  rm -f "$errors"
  die "could not look at: gcloud $*"
}

# confirm QUESTION: yes with --yes; no without a terminal to ask on.
confirm() {
  local answer=""
  if [ "$YES" = 1 ] || [ "$DRY_RUN" = 1 ]; then return 0; fi
  printf '%s [y/N] ' "$1"
  read -r answer || true
  case $answer in
    y | Y | yes) return 0 ;;
    *)
      say "left as it is"
      return 1
      ;;
  esac
}

# --- Names that follow from others ---------------------------------------------------------------------------------

email() { printf '%s@%s.iam.gserviceaccount.com' "$1" "$PRIMUS_PROJECT_ID"; }
image_repository() {
  printf '%s-docker.pkg.dev/%s/%s' "$PRIMUS_PROJECT_REPOSITORY_REGION" "$PRIMUS_PROJECT_ID" "$PRIMUS_ARTIFACT_REPOSITORY"
}
image_name() { printf '%s/%s' "$(image_repository)" "$WORKLOAD_IMAGE_NAME"; }
image_reference() { printf '%s:%s' "$(image_name)" "$WORKLOAD_IMAGE_TAG"; }
kms_key() {
  printf 'projects/%s/locations/%s/keyRings/%s/cryptoKeys/%s' \
    "$PRIMUS_PROJECT_ID" "$PRIMUS_PROJECT_LOCATION" "$PRIMUS_ENC_KEYRING" "$PRIMUS_ENC_KEY"
}
# Sets POOL and WIP_AUDIENCE, which have the project's number in them.
look_at_project() {
  look projects describe "$PRIMUS_PROJECT_ID" '--format=value(projectNumber)'
  [ -n "$LOOKED" ] || die "there is no project $PRIMUS_PROJECT_ID, or you may not see it"
  POOL=projects/$LOOKED/locations/global/workloadIdentityPools/$PRIMUS_WORKLOAD_IDENTITY_POOL
  WIP_AUDIENCE=//iam.googleapis.com/$POOL/providers/$PRIMUS_WIP_PROVIDER
}
# Sets IMAGE_DIGEST to that of the image that was pushed under a tag; empty if none was.
look_at_image() {
  look artifacts docker images describe "$1" '--format=value(image_summary.digest)'
  IMAGE_DIGEST=$LOOKED
}

# --- Things that several scripts make ------------------------------------------------------------------------------

# grant ROLE MEMBER KIND…: adds a binding where it is missing. KIND… is the gcloud command that looks after the
# resource, and the resource: `projects ID`, `kms keys KEY`, `artifacts repositories NAME --location=…`.
grant() {
  local role=$1 member=$2
  shift 2
  policy_command get-iam-policy "$@"
  look "${WORDS[@]}" '--flatten=bindings[].members' '--format=value(bindings.role)' \
    "--filter=bindings.role=\"$role\" AND bindings.members=\"$member\""
  if [ -n "$LOOKED" ]; then
    say "  $member has $role already"
    return 0
  fi
  policy_command add-iam-policy-binding "$@"
  # Without it gcloud asks, where a project has conditional bindings.
  [ "$1" != projects ] || WORDS+=(--condition=None)
  change_gc "${WORDS[@]}" "--role=$role" "--member=$member"
}

# policy_command VERB KIND…: sets WORDS to a command on an IAM policy; the verb stands between kind and name.
policy_command() {
  local verb=$1
  shift
  case $1 in
    projects) WORDS=(projects "$verb" "${@:2}") ;;
    *) WORDS=("$1" "$2" "$verb" "${@:3}") ;;
  esac
}

# service_account NAME TEXT: makes it where it is missing.
service_account() {
  look iam service-accounts describe "$(email "$1")" '--format=value(email)'
  if [ -n "$LOOKED" ]; then
    say "  service account $1 is there"
  else
    change_gc iam service-accounts create "$1" "--display-name=$2"
  fi
}

# --- Profiles ------------------------------------------------------------------------------------------------------

# profile: sets MACHINE_TYPE, VM_FLAGS, LAUNCHER, RUNTIME_USER and GPU_DRIVER for WORKLOAD_PROFILE.
profile() {
  local family=confidential-space
  [ "$WORKLOAD_DEBUG" = 1 ] && family=confidential-space-debug
  LAUNCHER=current
  RUNTIME_USER=65532:65532
  GPU_DRIVER=0
  case $WORKLOAD_PROFILE in
    shielded-preview)
      MACHINE_TYPE=${WORKLOAD_MACHINE_TYPE:-n1-standard-16}
      local image=confidential-space-0-gpupreview-796705b
      [ "$WORKLOAD_DEBUG" = 0 ] || die "no debug image of the GPU preview is known here: try out with WORKLOAD_PROFILE=sev"
      VM_FLAGS=("--accelerator=type=$WORKLOAD_GPU,count=1" --image-project=conf-space-images-preview "--image=$image"
        --maintenance-policy=TERMINATE)
      # That image mounts the token where only root can read it.
      LAUNCHER=preview RUNTIME_USER=0 GPU_DRIVER=1
      ;;
    sev)
      MACHINE_TYPE=${WORKLOAD_MACHINE_TYPE:-n2d-standard-16}
      VM_FLAGS=(--confidential-compute-type=SEV --image-project=confidential-space-images "--image-family=$family"
        --maintenance-policy=MIGRATE)
      ;;
    tdx)
      MACHINE_TYPE=${WORKLOAD_MACHINE_TYPE:-c3-standard-22}
      VM_FLAGS=(--confidential-compute-type=TDX --image-project=confidential-space-images "--image-family=$family"
        --maintenance-policy=TERMINATE)
      ;;
    tdx-h100)
      MACHINE_TYPE=${WORKLOAD_MACHINE_TYPE:-a3-highgpu-1g}
      # The GPU comes with the machine, in confidential mode because the VM is confidential. Google sells such VMs as
      # Spot or Flex-start only.
      VM_FLAGS=(--confidential-compute-type=TDX --image-project=confidential-space-images "--image-family=$family"
        --maintenance-policy=TERMINATE --provisioning-model=SPOT --instance-termination-action=STOP)
      GPU_DRIVER=1
      ;;
    *) die "no such profile: WORKLOAD_PROFILE is shielded-preview, sev, tdx or tdx-h100" ;;
  esac
}

# integer NAME: that it is a count.
integer() {
  [[ ${!1} =~ ^[0-9]+$ ]] || die "$1 must be a whole number, not ${!1}"
}

# memory_needed_mb: what the VM needs, in megabytes: weights, scratch, /dev/shm, integrity tags of the disk, and 6 GB
# for the system, keys and values, and requests.
memory_needed_mb() {
  local shm=${WORKLOAD_DEV_SHM_KB:-0}
  echo $(((WORKLOAD_MODEL_GB + WORKLOAD_SCRATCH_GB + 6) * 1000 + shm / 1000 + WORKLOAD_BOOT_DISK_GB * 10))
}

# check_sizes: that disk and memory hold the model, before anything is paid for.
check_sizes() {
  integer WORKLOAD_BOOT_DISK_GB
  integer WORKLOAD_MODEL_GB
  integer WORKLOAD_SCRATCH_GB
  [ -z "$WORKLOAD_DEV_SHM_KB" ] || integer WORKLOAD_DEV_SHM_KB
  local on_disk=$WORKLOAD_MODEL_GB needed
  if [ "$WORKLOAD_SCRATCH_GB" -gt 0 ]; then
    [ "$WORKLOAD_SCRATCH_GB" -gt "$WORKLOAD_MODEL_GB" ] ||
      die "WORKLOAD_SCRATCH_GB=$WORKLOAD_SCRATCH_GB does not hold a model of $WORKLOAD_MODEL_GB GB: give it 1 more"
    on_disk=0
  fi
  # 5 of the system; 3 for images and the drivers.
  needed=$((5 + 3 + on_disk))
  [ "$WORKLOAD_BOOT_DISK_GB" -ge "$needed" ] ||
    die "WORKLOAD_BOOT_DISK_GB=$WORKLOAD_BOOT_DISK_GB is too small: $needed at least"
  look compute machine-types describe "$MACHINE_TYPE" "--zone=$PRIMUS_PROJECT_ZONE" '--format=value(memoryMb)'
  [ -n "$LOOKED" ] || die "there is no $MACHINE_TYPE in $PRIMUS_PROJECT_ZONE: set PRIMUS_PROJECT_ZONE to a zone that has it"
  needed=$(memory_needed_mb)
  [ "$LOOKED" -ge "$needed" ] ||
    die "$MACHINE_TYPE has $LOOKED MB of memory, and $needed are needed: there is no swap, so choose a larger machine"
  say "  memory: $needed MB needed, $LOOKED there"
}
