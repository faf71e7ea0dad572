#!/usr/bin/env bash
# Starts the workload on a confidential VM of WORKLOAD_PROFILE, and opens port 8080 to the clients' network.
#
#   run_workload.sh [--replace] [--dry-run] [--yes]
#   run_workload.sh --replicas N [--dry-run]
#
#   --replace     if the VM is there, delete it first: it pulls the image when it boots, and only then
#   --replicas N  instead of one VM, N or more behind an internal load balancer that keeps each session on one of them;
#                 those that are not ready for five minutes are replaced. Another image replaces them one after the other
#
# Before anything is started it is checked that the image is pushed and authorized, and that disk and memory hold the
# model. Unlike the codelab's: only the clients' network reaches the port.
REPLACE=0
REPLICAS=""
own_flag() {
  case $1 in
    --replace) REPLACE=1 ;;
    --replicas=*) REPLICAS=${1#*=} ;;
    --replicas)
      REPLICAS=${2:-}
      FLAG_WORDS=2
      ;;
    *) return 1 ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=lib_replicas.sh
source "$DEPLOY_DIR/lib_replicas.sh"
parse_flags "$@"
profile
if [ -n "$REPLICAS" ]; then
  integer REPLICAS
  [ "$REPLICAS" -ge 1 ] || die "--replicas must be 1 or more"
  [ "$REPLACE" = 0 ] || die "--replace is for the one VM; replicas are replaced when the image is another one"
fi

say "machine $MACHINE_TYPE in $PRIMUS_PROJECT_ZONE, as $WORKLOAD_PROFILE"
check_sizes
[ "$WORKLOAD_PROFILE" != shielded-preview ] || say "  its memory is NOT encrypted; see SECURITY.md"

say "image $(image_reference)"
look_at_image "$(image_reference)"
if [ -n "$IMAGE_DIGEST" ]; then
  say "  $IMAGE_DIGEST"
  look iam workload-identity-pools providers describe "$PRIMUS_WIP_PROVIDER" --location=global \
    --workload-identity-pool="$PRIMUS_WORKLOAD_IDENTITY_POOL" '--format=value(attributeCondition)'
  if [ -z "$WORKLOAD_SIGNING_KEY" ] && ! grep -qF "$IMAGE_DIGEST" <<<"$LOOKED"; then
    die "that image may not use the key: run authorize_workload.sh"
  fi
elif [ "$DRY_RUN" = 0 ]; then
  die "there is no such image: run create_workload.sh"
fi

# ^~^: the pairs are separated by ~, since values have commas.
metadata="^~^tee-image-reference=$(image_reference)~tee-restart-policy=$WORKLOAD_RESTART_POLICY"
[ "$GPU_DRIVER" = 0 ] || metadata+="~tee-install-gpu-driver=true"
if [ "$WORKLOAD_SCRATCH_GB" -gt 0 ]; then
  metadata+="~tee-mount=type=tmpfs,source=tmpfs,destination=/scratch,size=$((WORKLOAD_SCRATCH_GB * 1000000000))"
fi
[ -z "$WORKLOAD_DEV_SHM_KB" ] || metadata+="~tee-dev-shm-size-kb=$WORKLOAD_DEV_SHM_KB"
[ -z "$WORKLOAD_SIGNING_KEY" ] || metadata+="~tee-signed-image-repos=$(image_name)"
[ "$WORKLOAD_DEBUG" = 0 ] || metadata+="~tee-container-log-redirect=true"

vm_flags=("--machine-type=$MACHINE_TYPE" "${VM_FLAGS[@]}" --shielded-secure-boot
  "--boot-disk-size=${WORKLOAD_BOOT_DISK_GB}GB" --scopes=cloud-platform
  "--service-account=$(email "$WORKLOAD_SERVICEACCOUNT")" "--network=$WORKLOAD_NETWORK" "--metadata=$metadata")
if [ -n "$REPLICAS" ]; then
  start_replicas "$REPLICAS" "${vm_flags[@]}"
  say "done; it takes minutes to boot, install drivers and load the model; next: setup_client.sh"
  exit 0
fi

say "firewall rule $WORKLOAD_FIREWALL_RULE"
ranges=$CLIENT_SOURCE_RANGES
if [ -z "$ranges" ]; then
  look compute networks subnets describe "$WORKLOAD_NETWORK" "--region=$PRIMUS_PROJECT_REGION" '--format=value(ipCidrRange)'
  [ -n "$LOOKED" ] || die "there is no subnet $WORKLOAD_NETWORK in $PRIMUS_PROJECT_REGION: set CLIENT_SOURCE_RANGES"
  ranges=$LOOKED
fi
case ",$ranges," in
  *,0.0.0.0/0,* | *,::/0,*) die "CLIENT_SOURCE_RANGES would admit every address: name the clients' network" ;;
esac
look compute firewall-rules describe "$WORKLOAD_FIREWALL_RULE" '--format=value(sourceRanges.list())'
if [ -z "$LOOKED" ]; then
  change_gc compute firewall-rules create "$WORKLOAD_FIREWALL_RULE" "--network=$WORKLOAD_NETWORK" --direction=INGRESS \
    --allow=tcp:8080 "--source-ranges=$ranges" "--target-service-accounts=$(email "$WORKLOAD_SERVICEACCOUNT")"
elif [ "$LOOKED" != "$ranges" ]; then
  change_gc compute firewall-rules update "$WORKLOAD_FIREWALL_RULE" "--source-ranges=$ranges"
else
  say "  $ranges may reach port 8080"
fi

say "VM $WORKLOAD_VM"
vm=("$WORKLOAD_VM" "--zone=$PRIMUS_PROJECT_ZONE")
look compute instances describe "${vm[@]}" '--format=value(status)'
if [ -n "$LOOKED" ] && [ "$REPLACE" = 1 ]; then
  confirm "Delete the VM $WORKLOAD_VM and start another?" || exit 0
  change_gc compute instances delete "${vm[@]}"
  LOOKED=""
fi
if [ -n "$LOOKED" ]; then
  say "  it is there: $LOOKED (--replace starts another)"
else
  change_gc compute instances create "${vm[@]}" "${vm_flags[@]}"
fi
say "done; it takes minutes to boot, install drivers and load the model; next: setup_client.sh"
