package main

import (
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/cni-none/cni-none/pkg/loopback"
)

// add brings lo up in CNI_NETNS and answers with a result that has lo and no
// address.
func add(c *call) ([]byte, error) {
	conf, err := c.attachment()
	if err != nil {
		return nil, err
	}
	if conf.prevResult != nil {
		if err := c.checkPrevResult(conf); err != nil {
			return nil, err
		}
	}
	ns, err := loopback.Open(c.getenv("CNI_NETNS"))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	survey, err := ns.Up(conf.policy)
	if err != nil {
		return nil, err
	}
	if conf.prevResult != nil {
		return append(conf.prevResult, '\n'), nil
	}
	return c.result(conf, survey.Lo()), nil
}

// check verifies that what ADD established still holds, and changes nothing. It
// does not look at prevResult: it is our own, and the namespace knows better.
func check(c *call) ([]byte, error) {
	conf, err := c.attachment()
	if err != nil {
		return nil, err
	}
	ns, err := loopback.Open(c.getenv("CNI_NETNS"))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	survey, err := ns.Survey()
	if err != nil {
		return nil, err
	}
	return nil, survey.Check(conf.policy)
}

// attachment reads what ADD and CHECK are told about the attachment.
func (c *call) attachment() (*config, error) {
	if c.getenv("CNI_NETNS") == "" {
		return nil, missingEnv("CNI_NETNS")
	}
	conf, err := c.config()
	if err != nil {
		return nil, err
	}
	return conf, c.refuseArgs()
}

// del has nothing to undo. lo stays up, because other attachments and a running
// process may use it, and dies with the namespace. So it opens no namespace, and
// succeeds with whatever ADD was refused for.
func del(*call) ([]byte, error) { return nil, nil }

// gc has nothing to collect, since ADD leaves nothing behind.
func gc(c *call) ([]byte, error) {
	var valid []types.GCAttachment
	return nil, c.conf.decode("cni.dev/valid-attachments", &valid)
}

// status says whether an ADD could be served.
func status(c *call) ([]byte, error) {
	if _, err := c.config(); err != nil {
		return nil, err
	}
	if err := loopback.Available(); err != nil {
		return nil, types.NewError(types.ErrPluginNotAvailable, "an ADD would fail: "+err.Error(), privileges)
	}
	return nil, nil
}

// checkPrevResult refuses a prevResult that cannot be passed on. It comes from
// another plugin, earlier in the chain.
func (c *call) checkPrevResult(conf *config) error {
	value := string(conf.prevResult)
	if conf.policy == loopback.Exclusive {
		return cannotHonour("prevResult", value, "this network is exclusive, but another plugin comes before it in the list", "remove that plugin, or set \"exclusive\": false")
	}
	if len(conf.placeholders) > 0 {
		return cannotHonour("placeholderIPs", string(c.conf.get("placeholderIPs")), "the result is another plugin's (prevResult)", "remove placeholderIPs")
	}
	if err := validResult(c.cniVersion, conf.prevResult); err != nil {
		return invalidConfig("prevResult", fmt.Sprintf("%s is not a result of CNI %s: %s", shorten(value), c.cniVersion, shorten(err.Error())), "the plugin before this one is at fault, or the runtime")
	}
	return nil
}
