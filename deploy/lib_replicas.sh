# shellcheck shell=bash disable=SC2034,SC2154
# Replicas of the workload behind a balancer that keeps each session on one of them. Sourced by run_workload.sh and
# cleanup.sh, never run.
#
# Where the name of something can stay the same, it is looked at and changed; an instance template cannot be changed, so
# its name ends in a hash of what it says. What is imported carries such a hash in its description.

REGION_FLAG="--region=$PRIMUS_PROJECT_REGION"
ZONE_FLAG="--zone=$PRIMUS_PROJECT_ZONE"
BALANCER=$WORKLOAD_VM-balancer
GROUP=$WORKLOAD_VM-group
HEALING=$WORKLOAD_VM-healing
COMPUTE_URL=https://www.googleapis.com/compute/v1/projects/$PRIMUS_PROJECT_ID
# Google's probes, from which balancer and auto-healing look at /readyz.
PROBES=35.191.0.0/16,130.211.0.0/22

short_hash() { sha256sum | cut -c1-12; }

# imported KIND NAME YAML: makes it, or changes it if it is another one.
imported() {
  local kind=$1 name=$2 yaml hash
  hash=$(printf '%s' "$3" | short_hash)
  yaml=$(printf 'name: %s\ndescription: codeseal %s\n%s' "$name" "$hash" "$3")
  look compute "$kind" describe "$name" "$REGION_FLAG" '--format=value(description)'
  if [ "$LOOKED" = "codeseal $hash" ]; then
    say "  it is there"
    return 0
  fi
  while IFS= read -r line; do say "    $line"; done <<<"$yaml"
  change_gc compute "$kind" import "$name" "$REGION_FLAG" <<<"$yaml"
}

# start_replicas COUNT FLAG…: FLAG… is what each VM is made with.
start_replicas() {
  local count=$1 template most proxies
  shift
  integer WORKLOAD_MAX_REPLICAS
  integer WORKLOAD_HEALING_DELAY
  most=$WORKLOAD_MAX_REPLICAS
  [ "$most" -gt 0 ] || most=$((count * 2))
  [ "$most" -ge "$count" ] || die "WORKLOAD_MAX_REPLICAS=$most is less than --replicas $count"

  say "subnet of the balancer's proxies $WORKLOAD_PROXY_SUBNET"
  look compute networks subnets describe "$WORKLOAD_PROXY_SUBNET" "$REGION_FLAG" '--format=value(ipCidrRange)'
  proxies=$LOOKED
  if [ -n "$proxies" ]; then
    say "  it is there: $proxies"
  else
    proxies=$WORKLOAD_PROXY_RANGE
    change_gc compute networks subnets create "$WORKLOAD_PROXY_SUBNET" "$REGION_FLAG" "--network=$WORKLOAD_NETWORK" \
      --purpose=REGIONAL_MANAGED_PROXY --role=ACTIVE "--range=$proxies"
  fi

  say "firewall rule $BALANCER"
  look compute firewall-rules describe "$BALANCER" '--format=value(sourceRanges.list())'
  if [ -z "$LOOKED" ]; then
    change_gc compute firewall-rules create "$BALANCER" "--network=$WORKLOAD_NETWORK" --direction=INGRESS \
      --allow=tcp:8080 "--source-ranges=$proxies,$PROBES" "--target-service-accounts=$(email "$WORKLOAD_SERVICEACCOUNT")"
  elif [ "$LOOKED" != "$proxies,$PROBES" ]; then
    change_gc compute firewall-rules update "$BALANCER" "--source-ranges=$proxies,$PROBES"
  else
    say "  only the balancer and Google's probes may reach port 8080"
  fi

  say "health checks"
  look compute health-checks describe "$BALANCER" "$REGION_FLAG" '--format=value(name)'
  # No request is sent to a replica that is not ready, within seconds.
  [ -n "$LOOKED" ] || change_gc compute health-checks create http "$BALANCER" "$REGION_FLAG" --port=8080 \
    --request-path=/readyz --check-interval=5s --timeout=3s --healthy-threshold=1 --unhealthy-threshold=2
  look compute health-checks describe "$HEALING" --global '--format=value(name)'
  # A replica is replaced after five minutes: a key service that fails for a while would have all of them replaced.
  [ -n "$LOOKED" ] || change_gc compute health-checks create http "$HEALING" --global --port=8080 \
    --request-path=/readyz --check-interval=30s --timeout=5s --healthy-threshold=1 --unhealthy-threshold=10

  # The image's digest is part of the name: a VM pulls the image when it boots, so another image takes other VMs.
  template=$WORKLOAD_VM-$(printf '%s\n' "$IMAGE_DIGEST" "$@" | short_hash)
  say "instance template $template"
  look compute instance-templates describe "$template" '--format=value(name)'
  if [ -n "$LOOKED" ]; then
    say "  it is there"
  else
    change_gc compute instance-templates create "$template" "$@"
  fi

  say "instance group $GROUP"
  look compute instance-groups managed describe "$GROUP" "$ZONE_FLAG" '--format=value(instanceTemplate.basename())'
  if [ -z "$LOOKED" ]; then
    change_gc compute instance-groups managed create "$GROUP" "$ZONE_FLAG" "--template=$template" "--size=$count" \
      "--health-check=$HEALING" "--initial-delay=$WORKLOAD_HEALING_DELAY"
    change_gc compute instance-groups set-named-ports "$GROUP" "$ZONE_FLAG" --named-ports=http:8080
  elif [ "$LOOKED" != "$template" ]; then
    # One more first, and then one less: what is ready stays enough.
    change_gc compute instance-groups managed rolling-action start-update "$GROUP" "$ZONE_FLAG" \
      "--version=template=$template" --max-surge=1 --max-unavailable=0
  else
    say "  it is there"
  fi
  look compute instance-groups managed describe "$GROUP" "$ZONE_FLAG" '--format=value(autoscaler.autoscalingPolicy.minNumReplicas)'
  local least=$LOOKED
  look compute instance-groups managed describe "$GROUP" "$ZONE_FLAG" '--format=value(autoscaler.autoscalingPolicy.maxNumReplicas)'
  if [ "$least $LOOKED" = "$count $most" ]; then
    say "  $count to $most replicas"
  else
    change_gc compute instance-groups managed set-autoscaling "$GROUP" "$ZONE_FLAG" "--min-num-replicas=$count" \
      "--max-num-replicas=$most" --target-cpu-utilization=0.8 "--cool-down-period=$WORKLOAD_HEALING_DELAY"
  fi

  say "backend service $BALANCER"
  # RATE with a bound that is never reached: a session is not sent elsewhere because its replica is busy.
  imported backend-services "$BALANCER" "loadBalancingScheme: INTERNAL_MANAGED
protocol: HTTP
portName: http
timeoutSec: 150
sessionAffinity: HEADER_FIELD
localityLbPolicy: RING_HASH
consistentHash:
  httpHeaderName: x-codeseal-session
  minimumRingSize: 1024
connectionDraining:
  drainingTimeoutSec: 30
healthChecks:
- $COMPUTE_URL/regions/$PRIMUS_PROJECT_REGION/healthChecks/$BALANCER
backends:
- group: $COMPUTE_URL/zones/$PRIMUS_PROJECT_ZONE/instanceGroups/$GROUP
  balancingMode: RATE
  maxRatePerInstance: 10000"

  say "URL map $BALANCER"
  # Only what never reached a replica is sent again: the balancer cannot know whether anything else was served.
  imported url-maps "$BALANCER" "defaultService: $COMPUTE_URL/regions/$PRIMUS_PROJECT_REGION/backendServices/$BALANCER
defaultRouteAction:
  retryPolicy:
    numRetries: 2
    retryConditions:
    - connect-failure"

  say "proxy and address $BALANCER"
  look compute target-http-proxies describe "$BALANCER" "$REGION_FLAG" '--format=value(name)'
  [ -n "$LOOKED" ] || change_gc compute target-http-proxies create "$BALANCER" "$REGION_FLAG" "--url-map=$BALANCER" \
    "--url-map-region=$PRIMUS_PROJECT_REGION"
  look compute forwarding-rules describe "$BALANCER" "$REGION_FLAG" '--format=value(IPAddress)'
  [ -n "$LOOKED" ] || change_gc compute forwarding-rules create "$BALANCER" "$REGION_FLAG" \
    --load-balancing-scheme=INTERNAL_MANAGED "--network=$WORKLOAD_NETWORK" "--subnet=$WORKLOAD_NETWORK" --ports=8080 \
    "--target-http-proxy=$BALANCER" "--target-http-proxy-region=$PRIMUS_PROJECT_REGION"
}

# remove_replicas: asks before each, in the order in which one depends on the other.
remove_replicas() {
  local kind template
  for kind in forwarding-rules target-http-proxies url-maps backend-services; do
    remove "$BALANCER among the $kind" compute "$kind" describe "$BALANCER" "$REGION_FLAG" '--format=value(name)' -- \
      compute "$kind" delete "$BALANCER" "$REGION_FLAG"
  done
  remove "the instance group $GROUP with its VMs" \
    compute instance-groups managed describe "$GROUP" "$ZONE_FLAG" '--format=value(name)' -- \
    compute instance-groups managed delete "$GROUP" "$ZONE_FLAG"
  look compute instance-templates list "--filter=name~^$WORKLOAD_VM-[0-9a-f]{12}\$" '--format=value(name)'
  for template in $LOOKED; do
    if confirm "Delete the instance template $template?"; then
      change_gc compute instance-templates delete "$template"
    fi
  done
  remove "the health check $BALANCER" compute health-checks describe "$BALANCER" "$REGION_FLAG" '--format=value(name)' -- \
    compute health-checks delete "$BALANCER" "$REGION_FLAG"
  remove "the health check $HEALING" compute health-checks describe "$HEALING" --global '--format=value(name)' -- \
    compute health-checks delete "$HEALING" --global
  remove "the firewall rule $BALANCER" compute firewall-rules describe "$BALANCER" '--format=value(name)' -- \
    compute firewall-rules delete "$BALANCER"
  remove "the proxies' subnet $WORKLOAD_PROXY_SUBNET" \
    compute networks subnets describe "$WORKLOAD_PROXY_SUBNET" "$REGION_FLAG" '--format=value(name)' -- \
    compute networks subnets delete "$WORKLOAD_PROXY_SUBNET" "$REGION_FLAG"
}
