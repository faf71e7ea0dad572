#!/usr/bin/env bash
# Makes the service account that the workload's VM runs as. It may get attestation tokens and write logs; it has no
# access to the key.
#
#   create_workload_service_account.sh [--dry-run]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse_flags "$@"

account=serviceAccount:$(email "$WORKLOAD_SERVICEACCOUNT")
operator=$WORKLOAD_OPERATOR
if [ -z "$operator" ]; then
  look config get-value account
  [ -n "$LOOKED" ] || die "gcloud has no account: run gcloud auth login, or set WORKLOAD_OPERATOR=user:…"
  case $LOOKED in
    *.gserviceaccount.com) operator=serviceAccount:$LOOKED ;;
    *) operator=user:$LOOKED ;;
  esac
fi

say "service account $WORKLOAD_SERVICEACCOUNT"
service_account "$WORKLOAD_SERVICEACCOUNT" "The confidential VM of code completion"
say "whose VMs $operator may start"
grant roles/iam.serviceAccountUser "$operator" iam service-accounts "$(email "$WORKLOAD_SERVICEACCOUNT")"
say "and which may get attestation tokens and write logs"
grant roles/confidentialcomputing.workloadUser "$account" projects "$PRIMUS_PROJECT_ID"
grant roles/logging.logWriter "$account" projects "$PRIMUS_PROJECT_ID"
say "done; next: create_workload.sh"
