#!/usr/bin/env bash
# Makes what the company owns: the key that wraps DEKs, the service account that may use it, and the identity pool.
#
#   setup_primus_resources.sh [--dry-run]
#
# Unlike the codelab's: the service account may decrypt and nothing else (the workload encrypts nothing with this key),
# and the key gets a new version every PRIMUS_ENC_KEY_ROTATION_DAYS. The provider of the pool, with its attribute
# condition, is made by authorize_workload.sh: until then the key cannot be used.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse_flags "$@"
integer PRIMUS_ENC_KEY_ROTATION_DAYS

say "services of $PRIMUS_PROJECT_ID"
look services list --enabled '--format=value(config.name)'
missing=()
for service in artifactregistry cloudkms compute confidentialcomputing iam iamcredentials logging sts; do
  grep -qx "$service.googleapis.com" <<<"$LOOKED" || missing+=("$service.googleapis.com")
done
if [ ${#missing[@]} -gt 0 ]; then
  change_gc services enable "${missing[@]}"
else
  say "  all are enabled"
fi

say "key $PRIMUS_ENC_KEY"
location=(--location="$PRIMUS_PROJECT_LOCATION")
key=("$PRIMUS_ENC_KEY" --keyring="$PRIMUS_ENC_KEYRING" "${location[@]}")
look kms keyrings describe "$PRIMUS_ENC_KEYRING" "${location[@]}" '--format=value(name)'
[ -n "$LOOKED" ] || change_gc kms keyrings create "$PRIMUS_ENC_KEYRING" "${location[@]}"
look kms keys describe "${key[@]}" '--format=value(name)'
if [ -z "$LOOKED" ]; then
  rotation=()
  if [ "$PRIMUS_ENC_KEY_ROTATION_DAYS" -gt 0 ]; then
    rotation=("--rotation-period=${PRIMUS_ENC_KEY_ROTATION_DAYS}d" "--next-rotation-time=+p${PRIMUS_ENC_KEY_ROTATION_DAYS}d")
  fi
  change_gc kms keys create "${key[@]}" --purpose=encryption "${rotation[@]}"
else
  look kms keys describe "${key[@]}" '--format=value(primary.state)'
  if [ "$LOOKED" = ENABLED ]; then
    say "  it is there, and can encrypt"
  else
    # After cleanup.sh, for example. The name of a key cannot be used again, so it gets a new version.
    say "  its primary version is ${LOOKED:-missing}: it gets a new one"
    change_gc kms keys versions create --key="$PRIMUS_ENC_KEY" --keyring="$PRIMUS_ENC_KEYRING" "${location[@]}" --primary
  fi
fi

say "service account $PRIMUS_SERVICEACCOUNT, which may decrypt"
service_account "$PRIMUS_SERVICEACCOUNT" "Decrypts the DEKs of prompts, for the attested workload"
grant roles/cloudkms.cryptoKeyDecrypter "serviceAccount:$(email "$PRIMUS_SERVICEACCOUNT")" kms keys "${key[@]}"

say "identity pool $PRIMUS_WORKLOAD_IDENTITY_POOL"
look iam workload-identity-pools describe "$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global '--format=value(state)'
case $LOOKED in
  ACTIVE) say "  it is there" ;;
  # For thirty days after its deletion its name is taken.
  DELETED) change_gc iam workload-identity-pools undelete "$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global ;;
  *)
    change_gc iam workload-identity-pools create "$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global \
      "--display-name=Attested workloads"
    ;;
esac
look_at_project
# Every workload that meets the attribute condition of the pool's one provider.
grant roles/iam.workloadIdentityUser "principalSet://iam.googleapis.com/$POOL/*" \
  iam service-accounts "$(email "$PRIMUS_SERVICEACCOUNT")"
say "done; next: create_workload_service_account.sh"
