package openstack

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"chromogenic/disk"
)

// fromEnvironment takes the variables of an openrc file, by the names that the openstack
// command knows: a user's domain and a project's are two.
func fromEnvironment() (*credentials, error) {
	env := os.Getenv
	auth := gophercloud.AuthOptions{
		IdentityEndpoint: env("OS_AUTH_URL"),
		UserID:           cmp.Or(env("OS_USER_ID"), env("OS_USERID")),
		Username:         env("OS_USERNAME"),
		Password:         env("OS_PASSWORD"),
		Passcode:         env("OS_PASSCODE"),
		TokenID:          cmp.Or(env("OS_TOKEN"), env("OS_AUTH_TOKEN")),
		DomainID:         cmp.Or(env("OS_USER_DOMAIN_ID"), env("OS_DOMAIN_ID")),
		DomainName:       cmp.Or(env("OS_USER_DOMAIN_NAME"), env("OS_DOMAIN_NAME")),

		ApplicationCredentialID:     env("OS_APPLICATION_CREDENTIAL_ID"),
		ApplicationCredentialName:   env("OS_APPLICATION_CREDENTIAL_NAME"),
		ApplicationCredentialSecret: env("OS_APPLICATION_CREDENTIAL_SECRET"),
	}
	project, name := cmp.Or(env("OS_PROJECT_ID"), env("OS_TENANT_ID")), cmp.Or(env("OS_PROJECT_NAME"), env("OS_TENANT_NAME"))
	switch {
	case env("OS_TRUST_ID") != "":
		auth.Scope = &gophercloud.AuthScope{TrustID: env("OS_TRUST_ID")}
	case project != "":
		auth.Scope = &gophercloud.AuthScope{ProjectID: project}
	case name != "":
		auth.Scope = &gophercloud.AuthScope{
			ProjectName: name,
			DomainID:    cmp.Or(env("OS_PROJECT_DOMAIN_ID"), env("OS_DOMAIN_ID")),
			DomainName:  cmp.Or(env("OS_PROJECT_DOMAIN_NAME"), env("OS_DOMAIN_NAME")),
		}
	case env("OS_SYSTEM_SCOPE") == "all":
		auth.Scope = &gophercloud.AuthScope{System: true}
	case env("OS_DOMAIN_ID")+env("OS_DOMAIN_NAME") != "":
		auth.Scope = &gophercloud.AuthScope{DomainID: env("OS_DOMAIN_ID"), DomainName: env("OS_DOMAIN_NAME")}
	}
	if missing := missingVariable(auth); missing != "" {
		err := disk.Errorf(disk.Denied, "find credentials: no cloud is named, and %s is not set", missing)
		return nil, disk.Hint(err, "name a cloud of clouds.yaml (key cloud, or OS_CLOUD), or set the variables of an openrc file")
	}
	insecure := slices.Contains([]string{"1", "true", "yes"}, strings.ToLower(env("OS_INSECURE")))
	config, err := tlsConfig(env("OS_CACERT"), env("OS_CERT"), env("OS_KEY"), insecure)
	if err != nil {
		return nil, err
	}
	return &credentials{
		auth: auth, tls: config, source: "variables OS_* of the environment",
		endpoints: gophercloud.EndpointOpts{
			Region:       env("OS_REGION_NAME"),
			Availability: gophercloud.Availability(strings.TrimSuffix(cmp.Or(env("OS_INTERFACE"), env("OS_ENDPOINT_TYPE")), "URL")),
		},
	}, nil
}

// missingVariable is one without which nobody can log in.
func missingVariable(auth gophercloud.AuthOptions) string {
	application := auth.ApplicationCredentialID != "" || auth.ApplicationCredentialName != ""
	switch {
	case auth.IdentityEndpoint == "":
		return "OS_AUTH_URL"
	case application && auth.ApplicationCredentialSecret == "":
		return "OS_APPLICATION_CREDENTIAL_SECRET"
	case application && auth.ApplicationCredentialID != "", auth.TokenID != "":
		return ""
	case auth.Username == "" && auth.UserID == "":
		return "OS_USERNAME"
	case !application && auth.Password == "" && auth.Passcode == "":
		return "OS_PASSWORD"
	}
	return ""
}

// defaultDomain is the id of the domain of users and projects of which none is named.
const defaultDomain = "default"

// settle makes of what the openstack command takes what gophercloud takes: one way to
// name a domain, none where an id says it, and no scope of an application credential,
// which has its own.
func settle(auth *gophercloud.AuthOptions) {
	byID := auth.ApplicationCredentialID != ""
	switch {
	case auth.UserID != "" || byID || auth.TokenID != "":
		auth.DomainID, auth.DomainName = "", ""
		if auth.UserID != "" {
			auth.Username = ""
		}
	case auth.DomainID != "":
		auth.DomainName = ""
	case auth.DomainName == "":
		auth.DomainID = defaultDomain
	}
	auth.TenantID, auth.TenantName = "", "" // the scope says it
	if byID || auth.ApplicationCredentialName != "" {
		auth.Scope, auth.TokenID, auth.Password = nil, "", ""
		if byID {
			auth.Username, auth.UserID, auth.ApplicationCredentialName = "", "", ""
		}
		return
	}
	if auth.TokenID != "" {
		auth.Username, auth.UserID, auth.Password = "", "", ""
	}
	if s := auth.Scope; s != nil && s.ProjectName != "" {
		switch {
		case s.DomainID != "":
			s.DomainName = ""
		case s.DomainName == "":
			s.DomainID = defaultDomain
		}
	}
}

// authTypes tells whether a way to log in is one of ours, by its name in clouds.yaml.
func authTypes(name string) bool {
	switch name {
	case "", "password", "v3password", "token", "v3token", "v3applicationcredential":
		return true
	}
	return false
}

// tlsConfig is that of the files; empty names none.
func tlsConfig(ca, cert, key string, insecure bool) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: insecure} //nolint:gosec // the owner of the cloud says so
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read CA file: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, disk.Errorf(disk.Invalid, "read CA file %q: it has no certificate", ca)
		}
	}
	if cert != "" && key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
