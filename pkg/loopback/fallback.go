package loopback

// fallbackTunnels are the devices, by rtnl kind, that the kernel puts into every
// new namespace once the tunnel's module is loaded, unless
// net.core.fb_tunnels_only_for_init_net says otherwise
// (Documentation/admin-guide/sysctl/net.rst; net/ipv4/{ipip,ip_gre,ip_vti}.c,
// net/ipv6/{sit,ip6_tunnel,ip6_gre,ip6_vti}.c).
var fallbackTunnels = map[string]string{
	"ipip":   "tunl0",
	"gre":    "gre0",
	"gretap": "gretap0",
	"erspan": "erspan0",
	"vti":    "ip_vti0",
	"sit":    "sit0",
	"ip6tnl": "ip6tnl0",
	"ip6gre": "ip6gre0",
	"vti6":   "ip6_vti0",
}

// isFallbackTunnel tells an idle fallback tunnel from an interface that was
// added: kind and name match, it is down, it has no address, and it has neither a
// remote end nor an underlay in another namespace, which the kernel's own lack.
func (l *Link) isFallbackTunnel() bool {
	return fallbackTunnels[l.Kind] == l.Name && l.Name != "" && !l.Up && len(l.Addrs) == 0 && !l.remote && !l.elsewhere
}
