#!/usr/bin/env bash
# Makes a client VM with codeseal on it, and lets the clients encrypt.
#
#   setup_client.sh [--no-vm] [--dry-run]
#
#   --no-vm   only the grants: for employees who work on machines of their own
#
# Unlike the codelab's: a client may encrypt and not decrypt. With both, every employee could unwrap the DEK of every
# other, and read what was recorded of their prompts.
MAKE_VM=1
own_flag() {
  case $1 in
    --no-vm) MAKE_VM=0 ;;
    *) return 1 ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse_flags "$@"

say "service account $CLIENT_SERVICEACCOUNT"
service_account "$CLIENT_SERVICEACCOUNT" "Clients of code completion"
say "which may encrypt"
key=("$PRIMUS_ENC_KEY" --keyring="$PRIMUS_ENC_KEYRING" --location="$PRIMUS_PROJECT_LOCATION")
read -ra members <<<"$CLIENT_MEMBERS"
for member in "serviceAccount:$(email "$CLIENT_SERVICEACCOUNT")" "${members[@]}"; do
  grant roles/cloudkms.cryptoKeyEncrypter "$member" kms keys "${key[@]}"
done

# The balancer's address, where there is one.
look compute forwarding-rules describe "$WORKLOAD_VM-balancer" "--region=$PRIMUS_PROJECT_REGION" '--format=value(IPAddress)'
server=$LOOKED
if [ -z "$server" ]; then
  look compute instances describe "$WORKLOAD_VM" "--zone=$PRIMUS_PROJECT_ZONE" '--format=get(networkInterfaces[0].networkIP)'
  server=$LOOKED
fi
if [ -z "$server" ]; then
  [ "$DRY_RUN" = 1 ] || die "there is no VM $WORKLOAD_VM: run run_workload.sh"
  server=ADDRESS-OF-$WORKLOAD_VM
fi
say "settings of a client, for ~/.config/codeseal/config.toml"
settings="server = \"http://$server:8080\"
kms_key = \"$(kms_key)\""
say "$settings"
[ "$MAKE_VM" = 1 ] || exit 0

say "VM $CLIENT_VM"
vm=("$CLIENT_VM" "--zone=$PRIMUS_PROJECT_ZONE")
look compute instances describe "${vm[@]}" '--format=value(status)'
if [ -n "$LOOKED" ]; then
  say "  it is there: $LOOKED"
else
  program=$(command -v "$CODESEAL") || die "there is no program $CODESEAL: set CODESEAL to where it was built"
  [ "$DRY_RUN" = 0 ] || program=codeseal
  change_gc compute instances create "${vm[@]}" --image-family=ubuntu-2404-lts-amd64 --image-project=ubuntu-os-cloud \
    --boot-disk-size=20GB --scopes=cloud-platform "--service-account=$(email "$CLIENT_SERVICEACCOUNT")" \
    "--network=$WORKLOAD_NETWORK"
  # Until its SSH server answers.
  for attempt in 1 2 3 4 5 6; do
    change_gc compute ssh "${vm[@]}" --command=true && break
    [ "$attempt" -lt 6 ] || die "$CLIENT_VM does not answer: run this again when it does"
    sleep "${SSH_RETRY_SECONDS:-10}"
  done
fi
look compute instances describe "${vm[@]}" '--format=value(labels.codeseal)'
if [ "$LOOKED" = installed ]; then
  say "  codeseal is on it"
else
  program=$(command -v "$CODESEAL") || die "there is no program $CODESEAL: set CODESEAL to where it was built"
  [ "$DRY_RUN" = 0 ] || program=codeseal
  change_gc compute scp "$program" "$CLIENT_VM:codeseal" "--zone=$PRIMUS_PROJECT_ZONE"
  change_gc compute ssh "${vm[@]}" "--command=sudo install -m 755 codeseal /usr/local/bin/codeseal &&
mkdir -p ~/.config/codeseal && cat > ~/.config/codeseal/config.toml <<'SETTINGS'
$settings
SETTINGS"
  change_gc compute instances add-labels "${vm[@]}" --labels=codeseal=installed
fi
say "done; try: gcloud compute ssh $CLIENT_VM --zone=$PRIMUS_PROJECT_ZONE --command=\"codeseal complete 'def fib(n):'\""
