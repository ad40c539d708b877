package ec2test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"sync"
	"time"
)

// An Account is one with one user, who may do everything in it.
type Account struct {
	Name, Number      string
	AccessKey, Secret string
	Token             string          // set by a test, before any request: the keys are temporary, and nothing without it
	Key               *rsa.PrivateKey // EC2_PRIVATE_KEY
	Cert              []byte          // EC2_CERT, PEM
	Admin             bool            // of the cloud
}

// KeyPEM is the private key as a file has it.
func (a *Account) KeyPEM() []byte {
	return block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(a.Key))
}

// keyring has the keys of all clouds of a process: to make them takes a second.
var keyring = sync.OnceValues(func() (k keys, err error) {
	var wait sync.WaitGroup
	made := make([]*rsa.PrivateKey, 4)
	errs := make([]error, len(made))
	for i := range made {
		wait.Go(func() { made[i], errs[i] = rsa.GenerateKey(rand.Reader, 2048) })
	}
	wait.Wait()
	return keys{cloud: made[0], users: made[1:]}, errors.Join(errs...)
})

type keys struct {
	cloud *rsa.PrivateKey
	users []*rsa.PrivateKey
}

// certificate is one that is its own authority, as those of Eucalyptus are.
func certificate(key *rsa.PrivateKey, name string) ([]byte, error) {
	c := template(name)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	return block("CERTIFICATE", der), err
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
	}
}

// authority makes one and a server's certificate of it.
func authority() (ca []byte, server *tls.Config, roots *x509.CertPool, err error) {
	root, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	t := template("authority of a test")
	der, err := x509.CreateCertificate(rand.Reader, t, t, &root.PublicKey, root)
	if err != nil {
		return nil, nil, nil, err
	}
	leaf := template("127.0.0.1")
	leaf.IsCA, leaf.IPAddresses, leaf.DNSNames = false, []net.IP{net.IPv4(127, 0, 0, 1)}, []string{"localhost"}
	signed, err := x509.CreateCertificate(rand.Reader, leaf, t, &root.PublicKey, root)
	if err != nil {
		return nil, nil, nil, err
	}
	ca = block("CERTIFICATE", der)
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return ca, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{signed}, PrivateKey: root}}}, roots, nil
}

// random is a number of n bytes in hex.
func random(n int) string {
	p := make([]byte, n)
	_, _ = rand.Read(p) // it does not fail
	return hex.EncodeToString(p)
}
