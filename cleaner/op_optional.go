package cleaner

// firewallRules removes the site's rules of the firewall, as virt-sysprep knows them.
func firewallRules(g *Guest) error {
	return g.remove("/etc/sysconfig/iptables", "/etc/sysconfig/ip6tables", "/etc/iptables/rules.v*", "/etc/firewalld/services/*", "/etc/firewalld/zones/*", "/etc/ufw/user*.rules", "/etc/nftables.d/*")
}

// caCertificates removes the certificates that a site has added, with their keys.
func caCertificates(g *Guest) error {
	return g.remove("/etc/pki/CA/certs/*", "/etc/pki/CA/crl/*", "/etc/pki/CA/newcerts/*", "/etc/pki/CA/private/*", "/etc/pki/tls/private/*", "/etc/pki/tls/certs/*.crt", "/usr/local/share/ca-certificates/*", "/etc/pki/ca-trust/source/anchors/*", "/etc/pki/trust/anchors/*")
}

// reconfigure asks old systems to ask their new owner questions at boot.
func reconfigure(g *Guest) error {
	return g.write("/.unconfigured", nil, owner{mode: 0o644})
}
