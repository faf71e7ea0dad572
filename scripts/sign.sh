#!/usr/bin/env bash
# Signs an image for Confidential Space, in the format of cosign: a payload that names the image by its digest and
# holds the public key, and a signature over it. Needs openssl, and no registry.
#
#   scripts/sign.sh key DIR                         make DIR/sign.key and DIR/sign.pub (ECDSA P-256); prints the key_id
#   scripts/sign.sh key-id PUBLIC_KEY               print the key_id: what conditions and policies name
#   scripts/sign.sh sign KEY REPOSITORY@DIGEST DIR  write DIR/payload.json and DIR/signature; prints the key_id
#   scripts/sign.sh verify PUBLIC_KEY REPOSITORY@DIGEST DIR
#
# key_id is the SHA-256 of the public key in DER, as it appears in the claim image_signatures of a token.
set -euo pipefail

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() { printf 'sign.sh: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '5,8s/^# *//p' "$0" >&2; exit 64; }

key_id() {
  openssl pkey -pubin -in "$1" -outform DER 2>/dev/null | openssl dgst -sha256 -r | cut -d ' ' -f 1
}

# Refuses a tag: what it names can change after it was signed.
check_image() {
  [[ $1 =~ ^[a-z0-9][a-zA-Z0-9._:/-]*@sha256:[0-9a-f]{64}$ ]] || fail "name the image as REPOSITORY@sha256:DIGEST, not by a tag"
}

# In one line and without a newline at its end: every byte is signed.
payload() {
  local image=$1 public=$2 pub
  pub=$(openssl base64 -A -in "$public" | tr '+/' '-_' | tr -d '=')
  printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":{"dev.cosignproject.cosign/pub":"%s","dev.cosignproject.cosign/sigalg":"ECDSA_P256_SHA256"}}' \
    "${image%@*}" "${image#*@}" "$pub"
}

make_key() {
  [ ! -e "$1/sign.key" ] || fail "there is a key already: remove it first if you mean to"
  mkdir -p "$1"
  (umask 077 && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1/sign.key" 2>/dev/null)
  openssl pkey -in "$1/sign.key" -pubout -out "$1/sign.pub"
  key_id "$1/sign.pub"
}

sign() {
  local key=$1 image=$2 dir=$3 public
  check_image "$image"
  mkdir -p "$dir"
  public=$scratch/public
  openssl pkey -in "$key" -pubout -out "$public" 2>/dev/null || fail "there is no private key in that file"
  openssl pkey -pubin -in "$public" -noout -text | grep -q 'NIST CURVE: P-256' || fail "the key must be ECDSA on P-256"
  payload "$image" "$public" >"$dir/payload.json"
  openssl dgst -sha256 -sign "$key" "$dir/payload.json" | openssl base64 -A >"$dir/signature"
  key_id "$public"
}

verify() {
  local public=$1 image=$2 dir=$3 signature
  check_image "$image"
  payload "$image" "$public" | cmp -s - "$dir/payload.json" || fail "the payload is about another image, or holds another key"
  signature=$scratch/signature
  openssl base64 -d -A -in "$dir/signature" -out "$signature"
  openssl dgst -sha256 -verify "$public" -signature "$signature" "$dir/payload.json" >/dev/null 2>&1 \
    || fail "the signature is wrong"
  key_id "$public"
}

case "${1-}:$#" in
  key:2) make_key "$2" ;;
  key-id:2) key_id "$2" ;;
  sign:4) sign "$2" "$3" "$4" ;;
  verify:4) verify "$2" "$3" "$4" ;;
  *) usage ;;
esac
