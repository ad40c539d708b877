package eucalyptus

import (
	"context"
	"crypto/rsa"

	"chromogenic/disk"
	"chromogenic/providers/internal/crypt"
)

// A sealing is what a bundle is made with.
type sealing struct {
	signer      *rsa.PrivateKey
	user, cloud *rsa.PublicKey
}

// sealing are the keys for a bundle of this account in this cloud.
func (s *session) sealing(ctx context.Context) (*sealing, error) {
	c := s.cred
	if c.key == "" {
		return nil, disk.Hint(disk.Errorf(disk.Denied, "seal bundle: %s names no private key of the user (EC2_PRIVATE_KEY, private-key)", c.source),
			"the archive of credentials of the account has it, or euare-usercreatecert makes one; without it nobody here could read the image again")
	}
	k := &sealing{}
	var err error
	if k.signer, err = readKey(c.key, crypt.ParsePrivateKey); err != nil {
		return nil, err
	}
	k.user = &k.signer.PublicKey
	if c.cert != "" {
		cert, err := readKey(c.cert, crypt.ParsePublicKey)
		if err != nil {
			return nil, err
		}
		if !cert.Equal(k.user) {
			err := disk.Errorf(disk.Denied, "seal bundle: the certificate %s is not that of the private key %s", c.cert, c.key)
			return nil, disk.Hint(err, "name the two files that came together")
		}
	}
	if c.cloudCert == "" {
		k.cloud, err = s.certificate(ctx)
	} else {
		k.cloud, err = readKey(c.cloudCert, crypt.ParsePublicKey)
	}
	if err != nil {
		return nil, err
	}
	return k, nil
}

// certificate asks the cloud for the certificate that bundles are sealed with: those of 4.2
// and later have a service for that.
func (s *session) certificate(ctx context.Context) (*rsa.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cloud != nil {
		return s.cloud, nil
	}
	list, err := s.ec2.ServiceCertificates(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	for _, c := range list {
		if err == nil && c.Service == "compute" && c.Usage == "image-bundling" {
			s.cloud, err = crypt.ParsePublicKey(c.PEM)
			return s.cloud, err
		}
	}
	failed := disk.Errorf(disk.Denied, "seal bundle: %s names no certificate of the cloud (EUCALYPTUS_CERT, certificate of the region), and the cloud gives none", s.cred.source)
	if err != nil {
		failed = disk.Errorf(disk.Denied, "%w: %w", failed, err)
	}
	return nil, disk.Hint(failed, "the archive of credentials of the account has it; without it the cloud could not open the image")
}
