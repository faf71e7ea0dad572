#!/bin/sh
# Runs a program that cargo has built. Tests and benchmarks, which cargo keeps in deps/, do not see settings of codeseal,
# of Google's and Hugging Face's libraries, of proxies or of the desktop: a developer's environment must decide no test.
# Programs that `cargo run` starts see everything.
case $1 in
*/debug/deps/*)
  # candle waits for its threads in a loop: tests that run beside each other would take the cores from one another.
  export CANDLE_NUM_THREADS=1
  ;;
esac
case $1 in
*/deps/*)
  for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in
    CODESEAL_EDITORS_* | CODESEAL_PICTURES | CODESEAL_PYTHON | CODESEAL_SAMPLE_CLIENT) ;; # Read by tests themselves.
    CODESEAL_* | CLOUDSDK_* | GCLOUD_* | GOOGLE_* | HF_* | HOME | NO_COLOR | RUST_LOG | XDG_* | *_PROXY | *_proxy)
      unset "$name"
      ;;
    esac
  done
  ;;
esac
exec "$@"
