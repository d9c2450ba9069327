#!/usr/bin/env bash
# Runs a Python program that you do not trust in a sandbox of its own, and throws
# the sandbox away. What it prints comes to standard output, cut at 1 MiB.
# usage: run.sh [-t SECONDS] [-o NAME]... PROGRAM.py
#   -t  how long it may run, 10 seconds if you do not say
#   -o  a file that it leaves in /data, to be copied to this directory
# Exit status: the program's; 124 if it took too long, 137 (with gVisor 128) if it was
# killed, for its memory mostly, 141 if it printed too much.
# Needs kubectl and GNU coreutils. NAMESPACE, TEMPLATE: agents, python.
set -euo pipefail
namespace=${NAMESPACE:-agents} template=${TEMPLATE:-python}
seconds=10 most=$((1 << 20)) files=()
while getopts t:o: option; do
	case $option in
	t) seconds=$((OPTARG)) ;;
	o) files+=("$(basename -- "$OPTARG")") ;;
	*) exit 2 ;;
	esac
done
program=${!OPTIND:?no program}

# Should this script be killed, the cluster ends the claim at that time.
deadline=$(date -u -d "+$((seconds + 120)) seconds" +%Y-%m-%dT%H:%M:%SZ)
claim=$(kubectl create --namespace "$namespace" --output name --filename - <<YAML
apiVersion: extensions.agents.x-k8s.io/v1alpha1
kind: SandboxClaim
metadata: {generateName: run-}
spec:
  sandboxTemplateRef: {name: $template}
  lifecycle: {shutdownPolicy: Delete, shutdownTime: "$deadline"}
YAML
)
# With the claim goes the sandbox, and whatever still runs in it.
trap 'kubectl delete --namespace "$namespace" --wait=false "$claim" >/dev/null' EXIT
kubectl wait --namespace "$namespace" --for=condition=Ready --timeout=100s "$claim" >/dev/null

# A pod from the pool keeps its name and is noted at the sandbox.
name=${claim#*/}
pod=$(kubectl get --namespace "$namespace" sandbox "$name" --output 'jsonpath={.metadata.annotations.agents\.x-k8s\.io/pod-name}')
inside=(kubectl exec --stdin --namespace "$namespace" "${pod:-$name}" --container python --)

# The inner limit is the sandbox's, and the program can get round it; ours it cannot.
# Nothing that comes out is believed: it is cut here, and files are plain bytes.
status=0
timeout --kill-after=1 $((seconds + 5)) "${inside[@]}" timeout --kill-after=1 "$seconds" python3 -I - <"$program" 2>&1 |
	head --bytes=$most || status=${PIPESTATUS[0]}
[ "$status" = 0 ] || exit "$status"
for file in ${files+"${files[@]}"}; do
	"${inside[@]}" head --bytes=$most "/data/$file" </dev/null | head --bytes=$most >"$file"
done
