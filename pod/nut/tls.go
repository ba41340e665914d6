package nut

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// starttls encrypts the connection if the policy wants it and upsd offers it.
func (c *client) starttls(ctx context.Context, policy TLS, config *tls.Config) error {
	if policy == TLSOff {
		return nil
	}
	err := c.tell(ctx, "STARTTLS")
	var refusal Refusal
	if errors.As(err, &refusal) && policy == TLSOffered {
		switch refusal {
		case featureNotConfigured, featureNotSupported, unknownCommand:
			return nil
		}
	}
	if err != nil {
		return err
	}
	// What came in clear behind the answer would be taken for something that came encrypted.
	if c.lines.Buffered() > 0 {
		return fmt.Errorf("answer to STARTTLS: %w: more follows in clear", errProtocol)
	}
	secure := tls.Client(c.conn, config)
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	c.conn, c.lines = secure, newLines(secure)
	return nil
}

// tlsConfig follows the policy. The file is read for each connection, so a renewed authority needs no restart.
func (c *Config) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if c.TLS != TLSRequired {
		config.InsecureSkipVerify = true // promised to nobody: who can cut into the connection can also refuse STARTTLS
		return config, nil
	}
	if c.CAFile == "" {
		return config, nil // the system's authorities
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s holds no certificate: give one in PEM form, beginning with -----BEGIN CERTIFICATE-----", c.CAFile)
	}
	return config, nil
}
