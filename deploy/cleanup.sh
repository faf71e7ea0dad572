#!/usr/bin/env bash
# Deletes what the other scripts made. Asks before each.
#
#   cleanup.sh [--dry-run] [--yes]
#
# A key ring and a key stay for good, without cost: what is destroyed is every version of the key, and with them whatever
# was recorded under it. A pool is kept by Google for thirty days, in which setup_primus_resources.sh brings it back.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=lib_replicas.sh
source "$DEPLOY_DIR/lib_replicas.sh"
parse_flags "$@"

# remove WHAT LOOK… -- DELETE…: if there is such a thing, asks and deletes it.
remove() {
  local what=$1 looking=()
  shift
  while [ "$1" != -- ]; do
    looking+=("$1")
    shift
  done
  shift
  look "${looking[@]}"
  if [ -z "$LOOKED" ] || [ "$LOOKED" = DELETED ]; then
    say "$what: not there"
  elif confirm "Delete $what?"; then
    change_gc "$@"
  fi
}

# revoke ROLE MEMBER KIND…: the opposite of grant.
revoke() {
  local role=$1 member=$2
  shift 2
  policy_command get-iam-policy "$@"
  look "${WORDS[@]}" '--flatten=bindings[].members' '--format=value(bindings.role)' \
    "--filter=bindings.role=\"$role\" AND bindings.members=\"$member\""
  [ -n "$LOOKED" ] || return 0
  policy_command remove-iam-policy-binding "$@"
  [ "$1" != projects ] || WORDS+=(--condition=None)
  if confirm "Take $role from $member?"; then
    change_gc "${WORDS[@]}" "--role=$role" "--member=$member"
  fi
}

remove_replicas
zone="--zone=$PRIMUS_PROJECT_ZONE"
for vm in "$WORKLOAD_VM" "$CLIENT_VM"; do
  remove "the VM $vm" compute instances describe "$vm" "$zone" '--format=value(status)' -- \
    compute instances delete "$vm" "$zone"
done
remove "the firewall rule $WORKLOAD_FIREWALL_RULE" \
  compute firewall-rules describe "$WORKLOAD_FIREWALL_RULE" '--format=value(name)' -- \
  compute firewall-rules delete "$WORKLOAD_FIREWALL_RULE"
remove "the identity pool $PRIMUS_WORKLOAD_IDENTITY_POOL with its provider" \
  iam workload-identity-pools describe "$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global '--format=value(state)' -- \
  iam workload-identity-pools delete "$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global

account=serviceAccount:$(email "$WORKLOAD_SERVICEACCOUNT")
revoke roles/confidentialcomputing.workloadUser "$account" projects "$PRIMUS_PROJECT_ID"
revoke roles/logging.logWriter "$account" projects "$PRIMUS_PROJECT_ID"
for name in "$PRIMUS_SERVICEACCOUNT" "$WORKLOAD_SERVICEACCOUNT" "$CLIENT_SERVICEACCOUNT"; do
  remove "the service account $name" iam service-accounts describe "$(email "$name")" '--format=value(email)' -- \
    iam service-accounts delete "$(email "$name")"
done

repository=("$PRIMUS_ARTIFACT_REPOSITORY" --location="$PRIMUS_PROJECT_REPOSITORY_REGION")
remove "the repository $PRIMUS_ARTIFACT_REPOSITORY with all its images" \
  artifacts repositories describe "${repository[@]}" '--format=value(name)' -- \
  artifacts repositories delete "${repository[@]}"

key=(--key="$PRIMUS_ENC_KEY" --keyring="$PRIMUS_ENC_KEYRING" --location="$PRIMUS_PROJECT_LOCATION")
look kms keys versions list "${key[@]}" '--filter=state=(ENABLED,DISABLED)' '--format=value(name.basename())'
versions=$LOOKED
[ -n "$versions" ] || say "the key $PRIMUS_ENC_KEY: no version is left"
for version in $versions; do
  if confirm "Destroy version $version of the key $PRIMUS_ENC_KEY? What is sealed under it is lost."; then
    change_gc kms keys versions destroy "$version" "${key[@]}"
  fi
done
say "done"
