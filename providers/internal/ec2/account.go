package ec2

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"chromogenic/disk"
)

// Account is the number of the account that the credentials are of: the owner of its
// security group "default", which every account has. Eucalyptus makes it when it is asked
// for (DescribeSecurityGroups of ComputeService.java calls NetworkGroups.createDefault)
// and so answers with the endpoint that is there anyway; its token service, at another
// address, is left alone.
func (c *Client) Account(ctx context.Context) (string, error) {
	out, err := call(ctx, c, "find the account", c.api.DescribeSecurityGroups, &ec2.DescribeSecurityGroupsInput{
		Filters: []types.Filter{{Name: aws.String("group-name"), Values: []string{"default"}}},
	})
	if err != nil {
		return "", err
	}
	account := ""
	for _, g := range out.SecurityGroups {
		owner := aws.ToString(g.OwnerId)
		if account != "" && owner != account {
			return "", disk.Errorf(disk.Other, "find the account: the security groups are of %s and of %s", account, owner)
		}
		account = owner
	}
	if account == "" {
		return "", disk.Hint(disk.Errorf(disk.NotFound, "find the account: there is no security group \"default\""),
			"say the account's number; eucarc has it as EC2_ACCOUNT_NUMBER")
	}
	return account, nil
}

// A ServiceCertificate is one that a cloud has for others to encrypt with.
type ServiceCertificate struct {
	Service string // "compute"
	Usage   string // "image-bundling"
	PEM     []byte
}

// ServiceCertificates asks Eucalyptus, from 4.2 on, for its certificates: what eucarc has
// as EUCALYPTUS_CERT is that of service compute and usage image-bundling. It is a service
// of its own beside that of the endpoint, which takes signatures of version 4. The wire format is that of euca2ools (commands/bootstrap) and of
// github.com/sjones4/eucalyptus-sdk-go (models/apis/euserv).
func (c *Client) ServiceCertificates(ctx context.Context) ([]ServiceCertificate, error) {
	if c.t.endpoint == nil {
		return nil, disk.Errorf(disk.Unsupported, "find the cloud's certificate: AWS has no such service")
	}
	to := bootstrap(*c.t.endpoint)
	signer := *c.t
	signer.sigV2 = false
	var text []byte
	err := c.retry.Do(ctx, func(ctx context.Context) (err error) {
		text, _, err = signer.ask(ctx, &to, "bootstrap", url.Values{
			"Action": {"DescribeServiceCertificates"}, "Version": {"eucalyptus"}, "Format": {"pem"},
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find the cloud's certificate: %w", err)
	}
	var answer struct {
		Items []struct {
			Service string `xml:"serviceType"`
			Usage   string `xml:"certificateUsage"`
			Format  string `xml:"certificateFormat"`
			Text    string `xml:"certificate"`
		} `xml:"serviceCertificates>item"`
	}
	if err := xml.NewDecoder(bytes.NewReader(text)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("find the cloud's certificate: %w", nonsense("%w", err))
	}
	var list []ServiceCertificate
	for _, i := range answer.Items {
		if i.Format == "pem" {
			list = append(list, ServiceCertificate{Service: i.Service, Usage: i.Usage, PEM: []byte(i.Text)})
		}
	}
	return list, nil
}

// bootstrap is the address of the service of certificates: /services/Empyrean at the same
// host, or the host bootstrap of the domain where services have hosts of their own.
func bootstrap(u url.URL) url.URL {
	u.RawPath = ""
	_, domain, _ := strings.Cut(u.Host, ".")
	if at := path.Clean("/" + u.Path); at != "/" || net.ParseIP(u.Hostname()) != nil || domain == "" {
		u.Path = path.Join(path.Dir(at), "Empyrean")
		return u
	}
	u.Host, u.Path = "bootstrap."+domain, "/"
	return u
}
