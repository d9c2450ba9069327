#!/usr/bin/env bash
# Lists the Services that select hermetic pods: pods of a RuntimeClass airgap or
# airgap-NAME, and pods whose Multus annotation makes airgap their network. No client
# can reach such a pod through a Service. With the IPv6 placeholder an IPv4 Service
# leaves the pod out, and an IPv6 Service would list an address that leads nowhere.
#
# usage: find-services.sh [kubectl options, such as --context NAME or -n NAMESPACE]
#
# One line per Service: NAMESPACE/SERVICE, its IP families, the pods it selects.
# Ends with 0 if there is none, 1 if there are some, 2 if it could not find out.
# Needs bash 3.2, kubectl, and the right to list pods and services (in all
# namespaces, unless -n is given). KUBECTL names another kubectl.
set -euo pipefail
trap 'echo "find-services.sh: could not look: see the message above" >&2; exit 2' ERR
kubectl=${KUBECTL:-kubectl}
scope=(--all-namespaces)
for arg in "$@"; do
	case $arg in -n | -n?* | --namespace | --namespace=*) scope=() ;; esac
done

# Namespace, pod, its RuntimeClass and its Multus network, one pod per line. An
# annotation may hold anything, a line break too: hence the quotes of printf.
pod_line='{{range .items}}{{.metadata.namespace}}|{{.metadata.name}}|{{with .spec.runtimeClassName}}{{.}}{{end}}|{{with .metadata.annotations}}{{with index . "v1.multus-cni.io/default-network"}}{{printf "%q" .}}{{end}}{{end}}{{"\n"}}{{end}}'
# Namespace, Service, families, and the selector as kubectl -l takes it. A Service
# without a selector selects nothing.
service_line='{{range .items}}{{if .spec.selector}}{{.metadata.namespace}}|{{.metadata.name}}|{{range $i, $f := .spec.ipFamilies}}{{if $i}},{{end}}{{$f}}{{end}}|{{range $k, $v := .spec.selector}}{{$k}}={{$v}},{{end}}{{"\n"}}{{end}}{{end}}'

pods=$("$kubectl" "$@" get pods ${scope[@]+"${scope[@]}"} -o go-template="$pod_line" |
	awk -F'|' '$3 ~ /^airgap(-|$)/ || $4 ~ /[^a-z0-9-]airgap(-[a-z0-9-]*)?[^a-z0-9\/-]/ {print $1 "|" $2}')
[ -n "$pods" ] || exit 0
services=$("$kubectl" "$@" get services ${scope[@]+"${scope[@]}"} -o go-template="$service_line")

found=0
while IFS='|' read -r namespace service families selector; do
	# Only namespaces with hermetic pods are worth a request.
	names=$(awk -F'|' -v ns="$namespace" '$1 == ns {print $2}' <<<"$pods")
	[ -n "$names" ] || continue
	selected=$("$kubectl" "$@" get pods --namespace "$namespace" -l "${selector%,}" -o go-template='{{range .items}}{{.metadata.name}}{{"\n"}}{{end}}')
	both=$(comm -12 <(sort <<<"$names") <(sort <<<"$selected") | paste -sd' ' -)
	[ -n "$both" ] || continue
	found=1
	printf '%s/%s\t%s\t%s\n' "$namespace" "$service" "$families" "$both"
done <<<"$services"
exit $found
