package policy

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// class gives a pod a RuntimeClass.
func class(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr(name) }
}

// asks is a pod that asks by its annotation, and by more of them: key, value.
func asks(pairs ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Annotations[networkKey] = "none"
		for i := 0; i < len(pairs); i += 2 {
			p.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

// wrongNamespaces are from before the policies, which let no such label be set.
var wrongNamespaces = map[string]map[string]string{
	"wrong-off":     {labelKey: "off"},
	"wrong-false":   {labelKey: "false"},
	"wrong-empty":   {labelKey: ""},
	"wrong-only":    {"cni-none.dev/hermetic-only": "true"},
	"wrong-handler": {labelKey: "true", handlerKey: "gVisor"},
	"wrong-airgap":  {labelKey: "true", handlerKey: "airgap-other"},
	"wrong-both":    {labelKey: "multus", handlerKey: "other"},
}

// testAsking has pods that ask in every way, on a cluster where nothing fills in what
// they ask for: 1.30 to 1.33, or a binding that was deleted. A pod that does not have
// it already is refused.
func (s *suite) testAsking(t *testing.T) {
	const (
		noClass  = "this pod is to be hermetic because of"
		noMultus = "the namespace's label cni-none.dev/hermetic=multus asks for"
		handler  = "must be the NAME of a RuntimeClass"
		another  = "is not what cni-none.dev/handler"
		unasked  = "does not ask to be: add"
		value    = "has a value that means nothing"
		nothing  = "a label or annotation cni-none.dev/... of this pod"
		label_   = "of this namespace means nothing"
		renamed  = "has another name now"
		both     = "names a RuntimeClass, which chooses no network"
	)
	handled := s.namespace(t, "handled", map[string]string{labelKey: "true", handlerKey: "other"})
	handler_ := s.namespace(t, "handler-only", map[string]string{handlerKey: "other"})
	none := func(*corev1.Pod) {}
	for _, test := range []struct {
		name, ns string
		edit     func(*corev1.Pod)
		rule     string // empty: allowed
		more     string
	}{
		{"annotation alone", s.ns, asks(), noClass, "its annotation cni-none.dev/network, and no RuntimeClass makes it so: use runtimeClassName: airgap"},
		{"annotation and another class", s.ns, and(asks(), class("airgapped")), noClass, "its annotation cni-none.dev/network, and runtimeClassName: airgapped has a network"},
		{"annotation and class", s.ns, and(asks(), hermetic), "", ""},
		{"label alone", s.labelled, none, noClass, "the label cni-none.dev/hermetic of its namespace, and no RuntimeClass"},
		{"label and another class", s.labelled, class("airgapped"), noClass, "airgapped has a network"},
		{"label and class", s.labelled, hermetic, "", ""},
		{"label and a class of a handler", s.labelled, hermeticOther, "", ""},
		{"label and Multus", s.labelled, multus, noClass, ""},
		{"nothing", s.ns, none, "", ""},

		{"annotation None", s.ns, annotate(networkKey, "None"), value, ""},
		{"annotation off", s.ns, and(hermetic, annotate(networkKey, "off")), value, ""},
		{"annotation empty", s.ns, annotate(networkKey, ""), value, ""},
		{"annotation in capitals", s.ns, annotate("cni-none.dev/Network", "none"), nothing, ""},
		{"domain in capitals", s.ns, annotate("CNI-NONE.dev/network", "none"), nothing, ""},
		{"annotation misspelled", s.ns, annotate("cni-none.dev/networks", "none"), nothing, ""},
		{"annotation of a namespace", s.ns, annotate(labelKey, "true"), nothing, ""},
		{"label of the pod", s.ns, label(networkKey, "none"), nothing, ""},
		{"label of another domain", s.ns, label("x.cni-none.dev/network", "none"), "", ""},

		{"label off", "wrong-off", hermetic, label_, "cni-none.dev/hermetic=off of"},
		{"label false", "wrong-false", none, label_, "cni-none.dev/hermetic=false of"},
		{"label empty", "wrong-empty", none, label_, ""},
		{"label of before", "wrong-only", hermetic, renamed, ""},

		{"handler", s.ns, and(asks(handlerKey, "other"), hermeticOther), "", ""},
		{"handler without a question", s.ns, annotate(handlerKey, "other"), unasked, ""},
		{"handler and its class", s.ns, and(annotate(handlerKey, "other"), hermeticOther), "", ""},
		{"handler and another class", s.ns, and(asks(handlerKey, "other"), hermetic), another, "use airgap-other"},
		{"handler with airgap", s.ns, and(asks(handlerKey, "airgap-other"), hermeticOther), handler, ""},
		{"handler empty", s.ns, and(asks(handlerKey, ""), hermetic), handler, ""},
		{"handler in capitals", s.ns, and(asks(handlerKey, "Other"), hermetic), handler, ""},
		{"namespace's handler", handled, hermeticOther, "", ""},
		{"namespace's handler and another class", handled, hermetic, another, "use airgap-other"},
		{"namespace's handler and the pod's", handled, and(annotate(handlerKey, "third"), class("airgap-other")), another, "use airgap-third"},
		{"namespace's handler only, nothing", handler_, none, "", ""},
		{"namespace's handler only, another class", handler_, hermetic, another, ""},
		{"namespace's handler only, asked", handler_, and(asks(), hermeticOther), "", ""},
		{"namespace's handler in capitals", "wrong-handler", hermetic, handler, ""},
		{"namespace's handler with airgap", "wrong-airgap", hermeticOther, handler, ""},

		{"multus: annotation", s.multus, multus, "", ""},
		{"multus: annotation and class", s.multus, and(multus, hermetic), "", ""},
		{"multus: another name", s.multus, annotate(defaultKey, "kube-system/airgap-lab"), "", ""},
		{"multus: nothing", s.multus, none, noMultus, "add it; the MutatingAdmissionPolicy"},
		{"multus: class alone", s.multus, hermetic, noMultus, "a class isolates nothing here"},
		{"multus: asked", s.multus, asks(), noMultus, ""},
		{"multus: another network", s.multus, annotate(defaultKey, "kube-system/other"), noMultus, "names another network"},
		{"multus: handler", s.multus, and(multus, annotate(handlerKey, "other")), both, ""},
		{"multus: namespace's handler", "wrong-both", multus, both, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.tryCreate(t, test.ns, pod(test.edit))
			if test.rule != "" {
				s.wantRefused(t, err, "cni-none-asking", test.rule, test.more)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func and(edits ...func(*corev1.Pod)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, edit := range edits {
			edit(p)
		}
	}
}
