#!/usr/bin/env bash
# Has the server of an unpacked image answer sealed prompts, as it is, in a network of its own with nothing but loopback.
#
#   scripts/image/prompt.sh OUT
#
#   OUT   where scripts/image.sh has put the image, built by `scripts/image/prompt.sh --arguments`:
#         scripts/image.sh --out OUT $(scripts/image/prompt.sh --arguments OUT)
#
# The program is that of production: it knows no sandbox, and cannot be pointed at one. So the sandbox is put where Google
# is: in the server's /etc/hosts the names of STS, IAM and KMS are those of this machine, where HAProxy holds certificates
# for them, of an authority that only the server's mounted certificates know. Mounted as well are the launcher's directory
# and the model, whose hashes were compiled in. The key is released to the digest of this image, and to no other.
#
# Needs root, haproxy, openssl and curl, and a `codeseal` with the sandbox (CODESEAL).
set -euo pipefail
cd "$(dirname "$0")/../.."
here=scripts/image
fail() { printf 'prompt.sh: %s\n' "$*" >&2; exit 1; }

key=projects/acme-primus/locations/global/keyRings/codeseal/cryptoKeys/dek
provider=//iam.googleapis.com/projects/210987654321/locations/global/workloadIdentityPools/trusted-workloads/providers/attestation-verifier
account=dek-unwrapper@acme-primus.iam.gserviceaccount.com
workload=operator-svc@acme-operator.iam.gserviceaccount.com
hosts=(sts.googleapis.com iamcredentials.googleapis.com cloudkms.googleapis.com)

if [ "${1:-}" = --arguments ]; then
  # The production profiles refuse a model that is not locked, so the small model is, in a manifest of its own.
  mkdir -p "$2"
  python3 - models/manifest.toml models/tiny "$2/manifest.toml" <<'EOF'
import hashlib, pathlib, sys
manifest, model, target = map(pathlib.Path, sys.argv[1:])
text = manifest.read_text()
start = text.index(f'[[model]]\nsource = "{model}"')
entry = f'[[model]]\nsource = "{model}"\ndtype = "bf16"\n'
for name in "config.json", "generation_config.json", "model.safetensors", "tokenizer.json":
    content = (model / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    entry += f'\n[[model.file]]\nname = "{name}"\nsize = {len(content)}\nsha256 = "{digest}"\n'
end = text.find("\n[[model]]", start + 1)
target.write_text(text[:start] + entry + (text[end:] if end >= 0 else ""))
EOF
  echo "--manifest $2/manifest.toml --build-arg MODEL=models/tiny --build-arg PROFILE=tdx --build-arg KMS_KEY=$key" \
    "--build-arg WIP_AUDIENCE=$provider --build-arg IMPERSONATE=$account"
  exit 0
fi

[ $# = 1 ] || { sed -n '4s/^# *//p' "$0" >&2; exit 64; }
out=$(realpath "$1")
codeseal=$(realpath "${CODESEAL:-target/debug/codeseal}")
for program in haproxy openssl curl; do command -v "$program" >/dev/null || fail "$program is missing"; done
if [ "${IMAGE_PROMPT_INSIDE:-}" != 1 ]; then
  # Every process of this script ends with it.
  IMAGE_PROMPT_INSIDE=1 exec unshare --net --pid --fork --kill-child --mount-proc "$0" "$out"
fi
ip link set lo up

scratch=$(mktemp -d /tmp/codeseal-prompt.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
digest=$(cat "$out/digest")
# wait_for WHAT COMMAND…: until it succeeds.
wait_for() {
  local what=$1 try
  shift
  for try in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.2
  done
  [ ! -f "$scratch/server.log" ] || cat "$scratch/server.log" >&2
  fail "$what does not come in a minute (tried $try times)"
}

# The claims of a TDX machine that runs this image, and a key for such machines alone.
python3 - tests/vectors/claims/tdx.json "$digest" >"$scratch/claims.json" <<'EOF'
import json, sys
claims = json.load(open(sys.argv[1]))
claims["submods"]["container"]["image_digest"] = sys.argv[2]
json.dump(claims, sys.stdout)
EOF
"$codeseal" policy condition --profile tdx --image-digest "$digest" --service-account "$workload" >"$scratch/condition"
mkdir -m 755 "$scratch/launcher"
"$codeseal" sandbox --listen 127.0.0.1:8090 --dir "$scratch/launcher" --condition "$scratch/condition" --claims "$scratch/claims.json" \
  >"$scratch/sandbox.json" 2>"$scratch/sandbox.log" &
wait_for "the sandbox" curl -sf http://127.0.0.1:8090/jwks
# As the launcher of a current VM image leaves them: for every user of the container.
chmod 644 "$scratch/launcher/"*token
chmod 666 "$scratch/launcher/"*.sock

# Google's names, on this machine.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=test authority" \
  -keyout "$scratch/ca.key" -out "$scratch/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=${hosts[0]}" \
  -keyout "$scratch/google.pem.key" -out "$scratch/google.csr" 2>/dev/null
printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' \
  "$(printf 'DNS:%s,' "${hosts[@]}" | sed 's/,$//')" >"$scratch/google.ext"
openssl x509 -req -days 1 -in "$scratch/google.csr" -CA "$scratch/ca.pem" -CAkey "$scratch/ca.key" -CAcreateserial \
  -extfile "$scratch/google.ext" -out "$scratch/google.pem" 2>/dev/null
cat "$out/rootfs/etc/ssl/certs/ca-certificates.crt" "$scratch/ca.pem" >"$scratch/certificates.crt"
{ echo "127.0.0.1 localhost"; printf '127.0.0.1 %s\n' "${hosts[@]}"; } >"$scratch/hosts"
cat >"$scratch/haproxy.cfg" <<EOF
global
  log stdout format raw local0
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend google
  bind 127.0.0.1:443 ssl crt $scratch/google.pem alpn h2,http/1.1
  # gRPC needs HTTP/2 all the way.
  use_backend grpc if { req.hdr(content-type) -m beg application/grpc }
  default_backend plain
backend grpc
  server sandbox 127.0.0.1:8090 proto h2
backend plain
  server sandbox 127.0.0.1:8090
EOF
haproxy -db -f "$scratch/haproxy.cfg" >"$scratch/haproxy.log" 2>&1 &

# As in a VM: nothing is told to it, all it knows is in the image.
"$here/run.sh" "$out" --mount "$scratch/launcher:/run/container_launcher" --mount "$PWD/models/tiny:/models/tiny" \
  --mount "$scratch/hosts:/etc/hosts" --mount "$scratch/certificates.crt:/etc/ssl/certs/ca-certificates.crt" \
  >"$scratch/server.log" 2>&1 &
wait_for "the server" curl -sf http://127.0.0.1:8080/readyz

ask() {
  "$codeseal" complete --server http://127.0.0.1:8080 --kms-key "$key" --sandbox-endpoint http://127.0.0.1:8090 \
    --max-tokens 24 --temperature 0 "$@"
}
whole=$(ask $'def add(a, b):\n    return') || fail "the prompt is refused: $(cat "$scratch/server.log")"
streamed=$(ask --stream $'def add(a, b):\n    return') || fail "the stream is refused: $(cat "$scratch/server.log")"
if [ -z "$whole" ] || [ "$whole" != "$streamed" ]; then fail "the answers differ: '$whole' and '$streamed'"; fi

# The employee sees the same through attestation: the token, this image and these weights.
cat >"$scratch/policy.toml" <<EOF
profile = "tdx"
image_digests = ["$digest"]
service_accounts = ["$workload"]
jwks = "http://127.0.0.1:8090/jwks"
EOF
"$codeseal" verify --server http://127.0.0.1:8080 --policy "$scratch/policy.toml" >"$scratch/verdict" ||
  fail "the server is not trusted: $(cat "$scratch/verdict")"

# A machine with another image gets no key.
python3 -c 'import json,sys; c = json.load(open(sys.argv[1])); c["submods"]["container"]["image_digest"] = "sha256:" + 64 * "0"; print(json.dumps(c))' \
  "$scratch/claims.json" >"$scratch/other.json"
if "$codeseal" policy test --condition "$scratch/condition" --claims "$scratch/other.json" >/dev/null; then
  fail "the key would be released to another image"
fi
ledger=$(curl -sf http://127.0.0.1:8090/sandbox/ledger)
printf 'answered, whole and streamed: %s\n' "$(printf '%s' "$whole" | head -n 1)"
printf 'verified: %s\n' "$digest"
printf 'the sandbox counted: %s\n' "$ledger"
