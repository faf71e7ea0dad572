# The scripts of deploy/ against stand-ins that keep state and refuse what gcloud would refuse.
#
#   CODESEAL=target/debug/codeseal bats tests/deploy        UPDATE_GOLDEN=1 writes the dry runs instead of comparing

bats_require_minimum_version 1.5.0

# Once: the interpreter itself, for there may be a slow script of the same name before it in the path; and a project
# with everything in it, for the tests that begin there.
setup_file() {
  mkdir -p "$BATS_FILE_TMPDIR/bin"
  ln -s "$(python3 -c 'import sys; print(sys.executable)')" "$BATS_FILE_TMPDIR/bin/python3"
  setup
  GCLOUD_STATE="$BATS_FILE_TMPDIR/everything" everything
}

setup() {
  export PATH="$BATS_FILE_TMPDIR/bin:$PATH"
  HERE=$BATS_TEST_DIRNAME
  DEPLOY=$(cd "$HERE/../../deploy" && pwd)
  export GCLOUD="$HERE/gcloud" DOCKER="$HERE/docker" GCLOUD_STATE="${BATS_TEST_TMPDIR:-}/state"
  export CODESEAL=${CODESEAL:-$HERE/../../target/debug/codeseal}
  export PRIMUS_PROJECT_ID=acme-primus WORKLOAD_SOURCE_ID=000000000000 SSH_RETRY_SECONDS=0
  export WORKLOAD_PROFILE=sev
  [ -z "${BATS_TEST_TMPDIR:-}" ] || mkdir -p "$GCLOUD_STATE"
  CODESEAL=$(cd "$(dirname "$CODESEAL")" && pwd)/codeseal
}

SCRIPTS=(setup_primus_resources create_workload_service_account create_workload authorize_workload run_workload setup_client)

# The script by its name, with no terminal to ask on.
deploy() {
  local name=$1
  shift
  "$DEPLOY/$name.sh" "$@" </dev/null
}

everything() {
  local name
  for name in "${SCRIPTS[@]}"; do deploy "$name" >/dev/null || return 1; done
}

# A project where all of that is done already.
ready() { cp "$BATS_FILE_TMPDIR/everything/state.json" "$GCLOUD_STATE/"; }

changes() { cat "$GCLOUD_STATE/changes" 2>/dev/null || true; }
forget_changes() { rm -f "$GCLOUD_STATE/changes"; }
# state KIND NAME PATH…: what the stand-in remembers of a resource.
state() {
  python3 - "$GCLOUD_STATE/state.json" "$@" <<'PY'
import functools, json, sys
print(functools.reduce(lambda value, name: value[name], sys.argv[2:], json.load(open(sys.argv[1]))))
PY
}

# The name of the header, as the client knows it.
session_header() { sed -n 's/.*SESSION_HEADER: &str = "\(.*\)";/\1/p' "$HERE/../../src/protocol/session.rs"; }

golden() {
  local file=$HERE/golden/$1.txt
  if [ -n "${UPDATE_GOLDEN:-}" ]; then
    mkdir -p "$HERE/golden"
    printf '%s\n' "$output" >"$file"
  fi
  diff -u "$file" <(printf '%s\n' "$output")
}

@test "every script is clean for shellcheck" {
  shellcheck "$DEPLOY"/*.sh
}

@test "a second run changes nothing" {
  ready
  everything
  [ -z "$(changes)" ] || { changes; false; }
}

@test "dry runs of an empty project say what would be done, and change nothing" {
  for profile in shielded-preview sev tdx-h100; do
    export WORKLOAD_PROFILE=$profile
    [ "$profile" != tdx-h100 ] || export PRIMUS_PROJECT_REGION=us-central1 PRIMUS_PROJECT_ZONE=us-central1-a
    for name in "${SCRIPTS[@]}"; do
      run deploy "$name" --dry-run
      [ "$status" = 0 ] || { echo "$output"; false; }
      output=${output//$GCLOUD/gcloud}
      output=${output//$DOCKER/docker}
      output=${output//$(dirname "$DEPLOY")/.}
      # Where things stand in the Dockerfile is not what these scripts decide.
      output=$(sed 's/line [0-9]*: //' <<<"$output")
      golden "$profile.$name"
    done
  done
  [ -z "$(changes)" ]
}

@test "a dry run of the cleanup lists what is there, and deletes nothing" {
  ready
  forget_changes
  run deploy cleanup --dry-run
  [ "$status" = 0 ]
  output=${output//$GCLOUD/gcloud}
  golden sev.cleanup
  [ -z "$(changes)" ]
}

@test "clients may encrypt and only the attested workload may decrypt" {
  ready
  CLIENT_MEMBERS="group:developers@example.com user:eve@example.com" deploy setup_client
  run state bindings "kms keys acme-primus-enc-key"
  [ "$(grep -o cryptoKeyDecrypter <<<"$output" | wc -l)" = 1 ]
  [[ $output == *"'roles/cloudkms.cryptoKeyDecrypter', 'serviceAccount:primus-sa@acme-primus.iam.gserviceaccount.com'"* ]]
  for member in serviceAccount:client-sa@acme-primus.iam.gserviceaccount.com group:developers@example.com user:eve@example.com; do
    [[ $output == *"'roles/cloudkms.cryptoKeyEncrypter', '$member'"* ]]
  done
  run state bindings "iam service-accounts primus-sa@acme-primus.iam.gserviceaccount.com"
  [[ $output == *"principalSet://iam.googleapis.com/projects/210987654321/locations/global/workloadIdentityPools/primus-wip/*"* ]]
}

@test "the provider's condition is met by the workload that was started, and by no what-if" {
  for profile in shielded-preview sev tdx tdx-h100; do
    export WORKLOAD_PROFILE=$profile GCLOUD_STATE="$BATS_TEST_TMPDIR/$profile"
    mkdir -p "$GCLOUD_STATE"
    [ "$profile" != tdx-h100 ] || export PRIMUS_PROJECT_REGION=us-central1 PRIMUS_PROJECT_ZONE=us-central1-a
    for name in setup_primus_resources create_workload_service_account create_workload authorize_workload run_workload; do
      deploy "$name" >/dev/null
    done
    state "iam workload-identity-pools providers" primus-wip-provider attributeCondition >"$BATS_TEST_TMPDIR/condition"
    digest=$(state "artifacts docker images" "$(state "compute instances" workload-vm flags --metadata |
      sed 's/.*tee-image-reference=\([^~]*\).*/\1/')" image_summary digest)
    # As the launcher would attest what run_workload.sh started.
    sed -e "s|us-docker.pkg.dev/acme-primus/codeseal/inference-server:latest|us-docker.pkg.dev/acme-primus/acme-primus-artifact-repo/workload-container:latest|" \
      -e "s|\"image_digest\": \"[^\"]*\"|\"image_digest\": \"$digest\"|" \
      -e "s|operator-svc@acme-operator|workload-sa@acme-primus|" -e '/"image_signatures"/,/\]/d' -e 's|codeseal-server"$|&|' \
      "$HERE/../vectors/claims/$profile.json" | python3 -c '
import json, re, sys
print(json.dumps(json.loads(re.sub(r",(\s*[}\]])", r"\1", sys.stdin.read()))))' >"$BATS_TEST_TMPDIR/claims"
    run "$CODESEAL" policy test --strict --condition "$BATS_TEST_TMPDIR/condition" --claims "$BATS_TEST_TMPDIR/claims"
    [ "$status" = 0 ] || { echo "$output"; false; }
    forget_changes
    for name in create_workload authorize_workload run_workload; do deploy "$name" >/dev/null; done
    [ -z "$(changes)" ] || { changes; false; }
    run state "iam workload-identity-pools providers" primus-wip-provider attributeMapping google.subject
    [[ $output == '"gcpcs::"+assertion.submods.container.image_digest+'* ]]
  done
}

@test "VMs have the scope, the secure boot and the port that the codelab's have, and only the clients' network gets in" {
  ready
  run state "compute instances" workload-vm flags
  [[ $output == *"'--scopes': 'cloud-platform'"* && $output == *"'--shielded-secure-boot': ''"* ]]
  run state "compute firewall-rules" workload-vm-clients flags
  [[ $output == *"'--allow': 'tcp:8080'"* && $output == *"'--source-ranges': '10.138.0.0/20'"* ]]
  [[ $output == *"'--target-service-accounts': 'workload-sa@acme-primus.iam.gserviceaccount.com'"* ]]
  CLIENT_SOURCE_RANGES=10.0.0.0/8,0.0.0.0/0 run -1 deploy run_workload
  [[ $output == *"would admit every address"* ]]
  forget_changes
  CLIENT_SOURCE_RANGES=10.1.0.0/16 deploy run_workload
  [[ $(changes) == *"firewall-rules update workload-vm-clients --source-ranges=10.1.0.0/16"* ]]
}

@test "the model may lie in memory, and the image allows that mount and no other" {
  export WORKLOAD_SCRATCH_GB=6 WORKLOAD_DEV_SHM_KB=1048576
  everything
  run state "compute instances" workload-vm flags --metadata
  [[ $output == *"~tee-mount=type=tmpfs,source=tmpfs,destination=/scratch,size=6000000000~tee-dev-shm-size-kb=1048576" ]]
  [[ $(changes) == *"--build-arg MODEL_CACHE=/scratch --build-arg MOUNT_DESTINATIONS=/scratch"* ]]
}

@test "disk and memory that do not hold the model are refused before anything is made" {
  refused() { run -1 env "$@" "$DEPLOY/run_workload.sh" --dry-run && echo "$output"; }
  [[ $(refused WORKLOAD_BOOT_DISK_GB=12) == *"too small: 13 at least"* ]]
  [[ $(refused WORKLOAD_MODEL_GB=17 WORKLOAD_BOOT_DISK_GB=24) == *"too small: 25 at least"* ]]
  [[ $(refused WORKLOAD_SCRATCH_GB=5) == *"does not hold a model of 5 GB"* ]]
  [[ $(refused WORKLOAD_MACHINE_TYPE=n1-standard-1) == *"has 3840 MB of memory, and 11400 are needed"* ]]
  # 10 TB of disk: 100 GB for its integrity tags.
  [[ $(refused WORKLOAD_BOOT_DISK_GB=10000) == *"and 111000 are needed"* ]]
  [[ $(refused WORKLOAD_PROFILE=tdx-h100) == *"there is no a3-highgpu-1g in us-west1-b"* ]]
  [[ $(refused WORKLOAD_BOOT_DISK_GB=40GB) == *"must be a whole number"* ]]
  [[ $(refused WORKLOAD_PROFILE=sgx) == *"no such profile"* ]]
}

@test "an image that is not pushed or not authorized is not started" {
  deploy setup_primus_resources && deploy create_workload_service_account
  run -1 deploy authorize_workload
  [[ $output == *"run create_workload.sh"* ]]
  run -1 deploy run_workload
  [[ $output == *"run create_workload.sh"* ]]
  deploy create_workload
  run -1 deploy run_workload
  [[ $output == *"run authorize_workload.sh"* ]]
  deploy authorize_workload && deploy run_workload
}

@test "replicas: a dry run says what would be made, a second run changes nothing, and cleanup removes it all" {
  ready
  run deploy run_workload --replicas 3 --dry-run
  [ "$status" = 0 ] || { echo "$output"; false; }
  output=${output//$GCLOUD/gcloud}
  golden sev.run_workload.replicas
  forget_changes
  deploy run_workload --replicas 3
  [[ $(changes) != *"compute instances create"* ]]
  forget_changes
  deploy run_workload --replicas=3
  [ -z "$(changes)" ] || { changes; false; }
  run deploy cleanup --dry-run
  output=${output//$GCLOUD/gcloud}
  golden sev.cleanup.replicas
  deploy cleanup --yes
  for kind in "networks subnets" firewall-rules health-checks instance-templates "instance-groups managed" backend-services url-maps \
    target-http-proxies forwarding-rules; do
    [ "$(state "compute $kind")" = "{}" ] || { echo "$kind"; false; }
  done
}

@test "replicas: a session stays on one, only probes and the balancer reach them, and clients are told the balancer's address" {
  ready
  deploy run_workload --replicas 2
  run state "compute backend-services" workload-vm-balancer imported
  [[ $output == *"sessionAffinity: HEADER_FIELD"*"localityLbPolicy: RING_HASH"*"httpHeaderName: $(session_header)"* ]]
  run state "compute firewall-rules" workload-vm-balancer sourceRanges
  [ "$output" = "['10.20.0.0/23', '35.191.0.0/16', '130.211.0.0/22']" ]
  run state "compute instance-groups managed" workload-vm-group
  [[ $output == *"'--health-check': 'workload-vm-healing'"* && $output == *"'minNumReplicas': '2', 'maxNumReplicas': '4'"* ]]
  run state "compute health-checks" workload-vm-healing flags
  [[ $output == *"'--request-path': '/readyz'"* ]]
  # A replica is the VM that would be alone.
  template=$(state "compute instance-groups managed" workload-vm-group instanceTemplate)
  run state "compute instance-templates" "$template" flags --metadata
  [ "$output" = "$(state "compute instances" workload-vm flags --metadata)" ]
  run deploy setup_client --no-vm
  [[ $output == *'server = "http://10.138.0.9:8080"'* ]]
}

@test "replicas: another image, or another number, changes that alone" {
  ready
  deploy run_workload --replicas 2
  forget_changes
  WORKLOAD_MAX_REPLICAS=5 deploy run_workload --replicas 3
  [ "$(changes | wc -l)" = 1 ]
  [[ $(changes) == *"set-autoscaling workload-vm-group"*"--min-num-replicas=3 --max-num-replicas=5"* ]]
  WORKLOAD_SOURCE_ID=111111111111 deploy create_workload
  deploy authorize_workload
  forget_changes
  WORKLOAD_MAX_REPLICAS=5 deploy run_workload --replicas 3
  [ "$(changes | wc -l)" = 2 ]
  [[ $(changes) == *"instance-templates create"*"rolling-action start-update"*"--max-surge=1 --max-unavailable=0"* ]]
}

@test "replicas: numbers that make no sense are refused" {
  ready
  forget_changes
  for wrong in "--replicas 0" "--replicas x" "--replicas" "--replicas 2 --replace"; do
    # shellcheck disable=SC2086
    run -1 deploy run_workload $wrong
  done
  WORKLOAD_MAX_REPLICAS=1 run -1 deploy run_workload --replicas 2
  [[ $output == *"is less than --replicas 2"* ]]
  [ -z "$(changes)" ] || { changes; false; }
}

@test "an upgrade by digest keeps the old image for as long as it is told to" {
  ready
  old=$(state "artifacts docker images" us-docker.pkg.dev/acme-primus/acme-primus-artifact-repo/workload-container:latest image_summary digest)
  export WORKLOAD_SOURCE_ID=111111111111
  deploy create_workload
  new=$(state "artifacts docker images" us-docker.pkg.dev/acme-primus/acme-primus-artifact-repo/workload-container:latest image_summary digest)
  [ "$old" != "$new" ]
  condition() { state "iam workload-identity-pools providers" primus-wip-provider attributeCondition; }
  run -1 deploy run_workload --replace --yes
  deploy authorize_workload --keep
  [[ $(condition) == *"image_digest in ['$new', '$old']"* ]]
  deploy run_workload --replace --yes
  forget_changes
  deploy authorize_workload --keep
  [ -z "$(changes)" ]
  deploy authorize_workload
  [[ $(condition) == *"image_digest == '$new'"* && $(condition) != *"$old"* ]]
}

@test "an image may be authorized by who signed it" {
  export WORKLOAD_SIGNING_KEY=ECDSA_P256_SHA256:07f55b8dfc58822744d1132fd225d76f13e2259255ee0f9f926bc44040c56dd0
  everything
  run state "iam workload-identity-pools providers" primus-wip-provider attributeCondition
  [[ $output == *"image_signatures.exists("* && $output != *image_digest* ]]
  run state "compute instances" workload-vm flags --metadata
  [[ $output == *"~tee-signed-image-repos=us-docker.pkg.dev/acme-primus/acme-primus-artifact-repo/workload-container"* ]]
}

@test "a debug image is for the codelab's condition, and is refused the key by ours" {
  export WORKLOAD_DEBUG=1
  everything
  run state "compute instances" workload-vm flags
  [[ $output == *confidential-space-debug* && $output == *tee-container-log-redirect=true* ]]
  state "iam workload-identity-pools providers" primus-wip-provider attributeCondition | grep -q disabled-since-boot
  WORKLOAD_CONDITION=codelab deploy authorize_workload
  ! state "iam workload-identity-pools providers" primus-wip-provider attributeCondition | grep -q dbgstat
}

@test "an image whose base opens another port is built and not pushed" {
  deploy setup_primus_resources && deploy create_workload_service_account
  DOCKER_BASE_PORT=8888/tcp run -1 deploy create_workload
  [[ $output == *"port 8888/tcp is open and comes from the base image"* ]]
  [[ $(changes) != *"docker push"* ]]
}

@test "not being allowed to look is not taken for there being nothing" {
  GCLOUD_DENY="kms keys describe" run -1 deploy setup_primus_resources
  [[ $output == *PERMISSION_DENIED* && $(changes) != *"kms keys create"* ]]
  GCLOUD_DENY="iam service-accounts describe" run -1 deploy create_workload_service_account
  [[ $output == *PERMISSION_DENIED* && $(changes) != *"service-accounts create"* ]]
}

@test "cleanup asks, deletes what was made, and finds nothing the second time" {
  ready
  forget_changes
  run deploy cleanup
  [[ $output == *"left as it is"* ]]
  [ -z "$(changes)" ] || { changes; false; }
  deploy cleanup --yes
  for thing in "instances delete workload-vm" "instances delete client-vm" "firewall-rules delete" "workload-identity-pools delete" \
    "service-accounts delete primus-sa" "service-accounts delete workload-sa" "service-accounts delete client-sa" \
    "repositories delete" "versions destroy 1"; do
    [[ $(changes) == *"$thing"* ]] || { echo "$thing"; false; }
  done
  forget_changes
  run deploy cleanup --yes
  [ "$status" = 0 ]
  [ -z "$(changes)" ] || { changes; false; }
}

@test "what was cleaned up can be set up again" {
  ready
  deploy cleanup --yes
  deploy setup_primus_resources
  [[ $(changes) == *"workload-identity-pools undelete primus-wip"* && $(changes) == *"versions create"*"--primary"* ]]
  everything
}

@test "what the image is built from decides whether it is built again" {
  # Every directory and file that the Dockerfile copies is among them.
  for source in $(sed -n 's/^COPY \([^-].*\) [^ ]*$/\1/p' "$HERE/../../Dockerfile"); do
    tr -d '\n\\' <"$DEPLOY/create_workload.sh" | grep -q "find Dockerfile .*\b${source//./\\.}\b.* -type f" || { echo "$source"; false; }
  done
  unset WORKLOAD_SOURCE_ID
  tag() { deploy create_workload --dry-run | grep -o 'workload-container:src-[0-9a-f]\{12\}' | sort -u; }
  first=$(tag)
  [ "$(wc -l <<<"$first")" = 1 ] && [ "$(tag)" = "$first" ]
  [ "$(WORKLOAD_MODEL=gs://other/model tag)" != "$first" ]
}

@test "wrong usage is refused" {
  run -1 deploy setup_primus_resources --force
  [[ $output == *"no such flag: --force"* ]]
  PRIMUS_PROJECT_ID="" run -1 deploy setup_primus_resources
  [[ $output == *"PRIMUS_PROJECT_ID is not set"* ]]
  for name in "${SCRIPTS[@]}" cleanup; do
    run deploy "$name" --help
    [ "$status" = 0 ] && [[ $output == *"$name.sh"* ]]
  done
  run -2 "$GCLOUD" compute instances create x --zone=z --project=p --no-such-flag
  run -2 "$GCLOUD" compute disks create x --project=p
}
