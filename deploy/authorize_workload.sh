#!/usr/bin/env bash
# Decides who may use the key: makes the pool's provider, whose attribute condition a workload's attestation must meet.
#
#   authorize_workload.sh [--keep] [--dry-run]
#
#   --keep   images that may use the key now still may: for the time of an upgrade
#
# What is authorized is the image that WORKLOAD_IMAGE_TAG names now, by its digest; or, with WORKLOAD_SIGNING_KEY, any
# image that key has signed. The condition is written by `codeseal policy condition`.
#
# Unlike the codelab's: the condition refuses debug images, unsupported images, disabled secure boot and overrides
# (unless WORKLOAD_CONDITION=codelab), and google.subject is made of claims. The codelab maps the text
# 'assertion.sub', so that every workload has that name in the audit log; the claim itself is longer than the
# 127 bytes that a subject may have.
KEEP=0
own_flag() {
  case $1 in
    --keep) KEEP=1 ;;
    *) return 1 ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse_flags "$@"
profile

ISSUER=https://confidentialcomputing.googleapis.com/
AUDIENCE=https://sts.googleapis.com
SUBJECT='"gcpcs::"+assertion.submods.container.image_digest+"::"+assertion.submods.gce.project_number+"::"+assertion.submods.gce.instance_id'
MAPPING="google.subject=$SUBJECT,attribute.image_digest=assertion.submods.container.image_digest"

provider=("$PRIMUS_WIP_PROVIDER" --workload-identity-pool="$PRIMUS_WORKLOAD_IDENTITY_POOL" --location=global)
look iam workload-identity-pools providers describe "${provider[@]}" '--format=value(state)'
state=$LOOKED
look iam workload-identity-pools providers describe "${provider[@]}" '--format=value(attributeCondition)'
condition_now=$LOOKED
look iam workload-identity-pools providers describe "${provider[@]}" '--format=value(attributeMapping)'
mapping_now=$LOOKED

say "image $(image_reference)"
arguments=(--profile "$WORKLOAD_PROFILE" --service-account "$(email "$WORKLOAD_SERVICEACCOUNT")"
  --image-reference "$(image_reference)")
case $WORKLOAD_CONDITION in
  hardened) ;;
  codelab) arguments+=(--codelab) ;;
  *) die "WORKLOAD_CONDITION is hardened or codelab" ;;
esac
if [ -n "$WORKLOAD_SIGNING_KEY" ]; then
  say "  whatever $WORKLOAD_SIGNING_KEY has signed"
  arguments+=(--signing-key "$WORKLOAD_SIGNING_KEY")
else
  look_at_image "$(image_reference)"
  if [ -z "$IMAGE_DIGEST" ]; then
    [ "$DRY_RUN" = 1 ] || die "there is no image $(image_reference): run create_workload.sh"
    IMAGE_DIGEST=sha256:$(printf '0%.0s' {1..64})
    say "  it is not pushed yet: its digest is zeros in this dry run"
  fi
  say "  $IMAGE_DIGEST"
  arguments+=(--image-digest "$IMAGE_DIGEST")
  if [ "$KEEP" = 1 ]; then
    while read -r digest; do
      [ -z "$digest" ] || [ "$digest" = "$IMAGE_DIGEST" ] || arguments+=(--image-digest "$digest")
    done < <(grep -oE 'sha256:[0-9a-f]{64}' <<<"$condition_now" | sort -u)
  fi
fi
condition=$("$CODESEAL" policy condition "${arguments[@]}")
say "condition:"
say "$condition"

say "provider $PRIMUS_WIP_PROVIDER"
settings=("--issuer-uri=$ISSUER" "--allowed-audiences=$AUDIENCE" "--attribute-mapping=$MAPPING"
  "--attribute-condition=$condition")
if [ "$state" = DELETED ]; then
  # For thirty days after its deletion its name is taken.
  change_gc iam workload-identity-pools providers undelete "${provider[@]}"
  condition_now=""
fi
if [ -z "$state" ]; then
  change_gc iam workload-identity-pools providers create-oidc "${provider[@]}" "${settings[@]}"
elif [ "$condition_now" != "$condition" ] || ! grep -qF "$SUBJECT" <<<"$mapping_now"; then
  change_gc iam workload-identity-pools providers update-oidc "${provider[@]}" "${settings[@]}"
else
  say "  it says so already"
fi
say "done; next: run_workload.sh"
