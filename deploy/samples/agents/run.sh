#!/usr/bin/env bash
# Runs a Python program that you do not trust in a sandbox of its own, and deletes
# the sandbox. What it prints goes to standard output, cut at 1 MiB.
# usage: run.sh [-t SECONDS] [-o NAME]... PROGRAM.py
#   -t  how long it may run (10 seconds)
#   -o  a file of its /data to copy to this directory
# Exit status: the program's; 124 if it took too long, 137 (with gVisor 128) if it was
# killed, mostly for its memory, 141 if it printed too much.
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

# If this script is killed, the cluster ends the claim at that time.
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
# This deletes the sandbox, too, and all that still runs in it.
trap 'kubectl delete --namespace "$namespace" --wait=false "$claim" >/dev/null' EXIT
kubectl wait --namespace "$namespace" --for=condition=Ready --timeout=100s "$claim" >/dev/null

# A pod from the pool keeps its name; the sandbox's annotation has it.
name=${claim#*/}
pod=$(kubectl get --namespace "$namespace" sandbox "$name" --output 'jsonpath={.metadata.annotations.agents\.x-k8s\.io/pod-name}')
inside=(kubectl exec --stdin --namespace "$namespace" "${pod:-$name}" --container python --)

# The program can stop the inner timeout, which runs in the sandbox, but not the outer
# one. Its output is not trusted: it is cut here, and files are plain bytes.
status=0
timeout --kill-after=1 $((seconds + 5)) "${inside[@]}" timeout --kill-after=1 "$seconds" python3 -I - <"$program" 2>&1 |
	head --bytes=$most || status=${PIPESTATUS[0]}
[ "$status" = 0 ] || exit "$status"
for file in ${files+"${files[@]}"}; do
	"${inside[@]}" head --bytes=$most "/data/$file" </dev/null | head --bytes=$most >"$file"
done
