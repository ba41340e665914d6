package webhook

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nv-hypervisor/nv-hypervisor/pod"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "correct-horse-battery-staple"

func tokenFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// certificate writes one for example.org that is valid until then, and its key.
func certificate(t *testing.T, until time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example.org"}, DNSNames: []string{"example.org"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "crt"), filepath.Join(t.TempDir(), "key")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// served is a watcher that listens.
type served struct {
	t       *testing.T
	w       *Watcher
	reports chan pod.Report
	addr    string
	stop    func()
}

func serve(t *testing.T, c Config) *served {
	t.Helper()
	return serveSlow(t, c, time.Second)
}

// serveSlow gives clients so long for a request.
func serveSlow(t *testing.T, c Config, patience time.Duration) *served {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	c.TokenFile = tokenFile(t, token+"\n", 0o600)
	w := must(t, c)
	w.entry.readTimeout = patience
	s := &served{t: t, w: w}
	s.reports, s.stop = start(t, w)
	for deadline := time.Now().Add(10 * time.Second); w.entry.listensAt() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("does not listen: %+v", w.Health())
		}
	}
	s.addr = w.entry.listensAt().String()
	return s
}

// raw sends text on a connection of its own and returns all that comes back.
func (s *served) raw(text string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	go io.WriteString(c, text)
	answer, err := io.ReadAll(c)
	if err != nil && len(answer) == 0 {
		s.t.Fatal(err)
	}
	return string(answer)
}

// post sends a body and returns the status and what was answered.
func (s *served) post(authorization, body string) (int, string) {
	s.t.Helper()
	return status(s.t, s.raw(request("POST", Path, authorization, body)))
}

func request(method, path, authorization, body string) string {
	if authorization != "" {
		authorization = "Authorization: " + authorization + "\r\n"
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", method, path, authorization, len(body), body)
}

func status(t *testing.T, answer string) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		t.Fatalf("%v in %q", err, answer)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func TestConfigurationIsChecked(t *testing.T) {
	good := tokenFile(t, token, 0o600)
	cert, key := certificate(t, time.Now().Add(time.Hour))
	_, otherKey := certificate(t, time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		config Config
		want   string // part of the error; "" for none
	}{
		"nothing":             {Config{}, ""},
		"loopback":            {Config{Listen: "127.0.0.1:0", TokenFile: good}, ""},
		"loopback, IPv6":      {Config{Listen: "[::1]:0", TokenFile: good}, ""},
		"TLS":                 {Config{Listen: "0.0.0.0:0", TokenFile: good, Certificate: cert, Key: key}, ""},
		"no TLS":              {Config{Listen: "192.0.2.7:8843", TokenFile: good}, "set certificate and key, or listen on 127.0.0.1"},
		"all addresses":       {Config{Listen: ":8843", TokenFile: good}, "set certificate and key"},
		"a name":              {Config{Listen: "localhost:8843", TokenFile: good}, "set certificate and key"},
		"no port":             {Config{Listen: "127.0.0.1", TokenFile: good}, "write it as"},
		"no key":              {Config{Listen: "127.0.0.1:0", TokenFile: good, Certificate: cert}, "set both"},
		"another key":         {Config{Listen: "127.0.0.1:0", TokenFile: good, Certificate: cert, Key: otherKey}, "does not match"},
		"no token file":       {Config{Listen: "127.0.0.1:0"}, "anybody could announce an outage"},
		"missing token":       {Config{Listen: "127.0.0.1:0", TokenFile: "/nonexistent"}, "head -c 32"},
		"token for all":       {Config{Listen: "127.0.0.1:0", TokenFile: tokenFile(t, token, 0o644)}, "chmod 600"},
		"short token":         {Config{Listen: "127.0.0.1:0", TokenFile: tokenFile(t, "guess me", 0o600)}, "want 16 to 512"},
		"long token":          {Config{Listen: "127.0.0.1:0", TokenFile: tokenFile(t, strings.Repeat("x", 10000), 0o600)}, "want 16 to 512"},
		"two lines":           {Config{Listen: "127.0.0.1:0", TokenFile: tokenFile(t, token+"\n"+token+"\n", 0o600)}, "more than one line"},
		"a folder":            {Config{Listen: "127.0.0.1:0", TokenFile: t.TempDir()}, "not a plain file"},
		"a key alone":         {Config{Key: key}, "set listen"},
		"stale too soon":      {Config{StaleAfter: time.Millisecond}, "1s to 24h"},
		"age without measure": {Config{MaxAge: 2 * time.Hour}, "1s to 1h"},
	} {
		if _, err := New(c.config); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestTokenOfAnotherUser(t *testing.T) {
	path := tokenFile(t, token, 0o600)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := readToken(path); err == nil || !strings.Contains(err.Error(), "chown root") {
		t.Error(err)
	}
}

func TestPost(t *testing.T) {
	s := serve(t, Config{StaleAfter: time.Minute})
	code, body := s.post("Bearer "+token, `{"condition":"on-battery","runtime_s":90.5,"source":"bmc"}`)
	if code != 200 || body != `{"condition":"on battery","expires_s":60}`+"\n" {
		t.Errorf("%d %s", code, body)
	}
	r := <-s.reports
	if r.Condition != pod.OnBattery || r.Runtime != 90500*time.Millisecond || r.Detail != "bmc" {
		t.Errorf("%+v", r)
	}
	if code, body := s.post("Bearer "+token, `{"condition":"mains","source":"bmc","sequence":2}`); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := s.post("Bearer "+token, `{"condition":"on-battery","source":"bmc","sequence":1}`); code != 409 || !strings.Contains(body, "out_of_order") {
		t.Errorf("%d %s", code, body)
	}
	if r := <-s.reports; r.Condition != pod.Mains {
		t.Errorf("%+v", r)
	}
}

func TestWithoutTheToken(t *testing.T) {
	s := serve(t, Config{})
	const event = `{"condition":"going"}`
	for _, authorization := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + token + "x", "Bearer  " + token, "Basic " + token, token} {
		if code, body := s.post(authorization, event); code != 401 || !strings.Contains(body, "unauthorized") {
			t.Errorf("%q: %d %s", authorization, code, body)
		}
	}
	// Two headers are nobody's, and nothing is told of what there is.
	twice := "Bearer " + token + "\r\nAuthorization: Bearer wrong"
	if code, _ := s.post(twice, event); code != 401 {
		t.Errorf("two headers: %d", code)
	}
	if code, _ := status(s.t, s.raw(request("GET", "/", "", ""))); code != 401 {
		t.Errorf("GET /: %d", code)
	}
	if len(s.reports) != 0 {
		t.Errorf("reported %+v", <-s.reports)
	}
}

// Ten wrong tokens, and the right one is not even compared; others are not held up.
func TestGuessing(t *testing.T) {
	s := serve(t, Config{})
	for i := range tries {
		if code, _ := s.post(fmt.Sprintf("Bearer guess-%d", i), "{}"); code != 401 {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	answer := s.raw(request("POST", Path, "Bearer "+token, `{"condition":"mains"}`))
	if code, _ := status(t, answer); code != 429 || !strings.Contains(answer, "\r\nRetry-After: ") {
		t.Errorf("%q", answer)
	}
	now := time.Now()
	for from, blocked := range map[string]bool{"127.0.0.1/32": true, "127.0.0.2/32": false} {
		if got := s.w.entry.guesses.blocked(netip.MustParsePrefix(from), now) > 0; got != blocked {
			t.Errorf("%s is blocked: %v", from, got)
		}
	}
	if s.w.entry.guesses.blocked(netip.MustParsePrefix("127.0.0.1/32"), now.Add(forgiven)) > 0 {
		t.Error("still blocked after a while")
	}
}

func TestGuessersAreBounded(t *testing.T) {
	var g guesses
	g.init()
	now := time.Now()
	address := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
	}
	for i := range maxAddresses + 10 {
		g.wrong(address(i), now)
	}
	if len(g.until) != maxAddresses {
		t.Errorf("%d addresses are remembered", len(g.until))
	}
	g.wrong(address(maxAddresses+1), now.Add(forgiven))
	if len(g.until) != 1 {
		t.Errorf("%d addresses are remembered when all are forgiven", len(g.until))
	}
}

func TestClientsOfOneNetworkAreOne(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1":          "192.0.2.7/32",
		"[::ffff:192.0.2.7]:1": "192.0.2.7/32",
		"[2001:db8::1]:1":      "2001:db8::/64",
		"[2001:db8::ffff:1]:2": "2001:db8::/64",
		"[fe80::1%eth0]:1":     "fe80::/64",
		"nonsense":             "invalid Prefix",
	} {
		if got := clientOf(&http.Request{RemoteAddr: remote}).String(); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	s := serve(t, Config{})
	for name, c := range map[string]struct {
		method, path, body string
		want               int
	}{
		"empty":         {"POST", Path, "", 400},
		"not JSON":      {"POST", Path, "condition=mains", 400},
		"unknown field": {"POST", Path, `{"condition":"mains","colour":"red"}`, 400},
		"key twice":     {"POST", Path, `{"condition":"mains","condition":"going"}`, 400},
		"trailing":      {"POST", Path, `{"condition":"mains"}{}`, 400},
		"null":          {"POST", Path, `null`, 400},
		"list":          {"POST", Path, `[]`, 400},
		"infinite":      {"POST", Path, `{"condition":"mains","runtime_s":1e999}`, 400},
		"wrong time":    {"POST", Path, `{"condition":"mains","at":"yesterday"}`, 400},
		"old":           {"POST", Path, `{"condition":"mains","at":"2001-01-01T00:00:00Z"}`, 409},
		"negative":      {"POST", Path, `{"condition":"mains","sequence":-1}`, 400},
		"deep":          {"POST", Path, strings.Repeat("[", 2000), 400},
		"large":         {"POST", Path, `{"detail":"` + strings.Repeat("x", maxBody) + `"}`, 413},
		"GET":           {"GET", Path, "", 405},
		"elsewhere":     {"POST", "/v1/pod", `{"condition":"mains"}`, 404},
		"unclean path":  {"POST", "/v1/../v1/pod/event", `{"condition":"mains"}`, 404},
		"options":       {"OPTIONS", "*", "", 404},
	} {
		code, body := status(t, s.raw(request(c.method, c.path, "Bearer "+token, c.body)))
		if code != c.want || !strings.HasPrefix(body, `{"error":{"code":"`) {
			t.Errorf("%s: %d %s, want %d", name, code, body, c.want)
		}
	}
	if len(s.reports) != 0 {
		t.Errorf("reported %+v", <-s.reports)
	}
}

// Neither a slow header nor a slow body holds a connection, and neither keeps an honest source out.
func TestSlowClients(t *testing.T) {
	s := serve(t, Config{})
	var slow []net.Conn
	for i := range maxConns - 1 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := "POST " + Path + " HTTP/1.1\r\nHost: x\r\nX-Slow: "
		if i%2 == 0 {
			start = "POST " + Path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + "\r\nContent-Length: 100\r\n\r\n{"
		}
		io.WriteString(c, start)
		slow = append(slow, c)
	}
	if code, body := s.post("Bearer "+token, `{"condition":"mains"}`); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	for _, c := range slow {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("a slow connection stays open: %v", err)
		}
	}
}

// More connections than are served are closed at once, and cost nothing.
func TestManyConnections(t *testing.T) {
	s := serve(t, Config{})
	var open []net.Conn
	for range maxConns {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	extra, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	extra.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := extra.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the connection above the limit: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if s.w.Test(t.Context()) == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody is served after the idle ones are gone")
		}
	}
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t, time.Now().Add(time.Hour))
	s := serve(t, Config{Listen: "0.0.0.0:0", Certificate: cert, Key: key})
	if err := s.w.Test(t.Context()); err != nil {
		t.Errorf("self-test: %v", err)
	}
	// Plain HTTP gets no further than the handshake.
	if answer := s.raw(request("POST", Path, "Bearer "+token, `{"condition":"going"}`)); strings.Contains(answer, "200 OK") {
		t.Errorf("in the clear: %q", answer)
	}
	pool := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(text)
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		config := &tls.Config{RootCAs: pool, ServerName: "example.org", MinVersion: tls.VersionTLS10, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"}}
		c, err := tls.Dial("tcp", "127.0.0.1:"+port, config)
		if (err == nil) != ok {
			t.Errorf("version %x: %v", version, err)
		}
		if err != nil {
			continue
		}
		if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("protocol %q", p)
		}
		io.WriteString(c, request("POST", Path, "Bearer "+token, `{"condition":"low-battery"}`))
		answer, _ := io.ReadAll(c)
		if code, body := status(t, string(answer)); code != 200 {
			t.Errorf("%d %s", code, body)
		}
		c.Close()
	}
	if r := <-s.reports; r.Condition != pod.LowBattery {
		t.Errorf("%+v", r)
	}
}

// Who connects and does not shake hands is let go.
func TestSlowHandshake(t *testing.T) {
	cert, key := certificate(t, time.Now().Add(time.Hour))
	s := serve(t, Config{Certificate: cert, Key: key})
	for _, start := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, start)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("after %q the connection stays open: %v", start, err)
		}
	}
}

func TestSelfTestFindsAnExpiredCertificate(t *testing.T) {
	cert, key := certificate(t, time.Now().Add(-time.Hour))
	s := serve(t, Config{Certificate: cert, Key: key})
	if err := s.w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "renew it") {
		t.Error(err)
	}
}

func TestSelfTestWithoutAnnouncing(t *testing.T) {
	s := serve(t, Config{})
	if err := s.w.Test(t.Context()); err != nil {
		t.Error(err)
	}
	if len(s.reports) != 0 {
		t.Errorf("reported %+v", <-s.reports)
	}
	s.stop()
	if err := s.w.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("after the end: %v", err)
	}
}

// A port that is taken is tried again; what is said on the unix socket counts meanwhile.
func TestPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w := must(t, Config{Listen: taken.Addr().String(), TokenFile: tokenFile(t, token, 0o600)})
	reports, _ := start(t, w)
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(w.Health().Error, "is the address this host's"); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", w.Health())
		}
	}
	if _, err := w.Accept(Event{Condition: "on-battery"}); err != nil {
		t.Error(err)
	}
	if r := <-reports; r.Condition != pod.OnBattery {
		t.Errorf("%+v", r)
	}
	taken.Close()
	for deadline := time.Now().Add(10 * time.Second); !w.Health().Connected; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", w.Health())
		}
	}
	if err := w.Test(t.Context()); err != nil {
		t.Error(err)
	}
}

// The end of Run waits for a request in progress, and not for one that never ends.
func TestEndWithOpenRequests(t *testing.T) {
	s := serveSlow(t, Config{}, time.Minute)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST "+Path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nAuthorization: Bearer "+token+"\r\n\r\n{")
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestNameAndTier(t *testing.T) {
	w := must(t, Config{})
	if w.Name() != "webhook" || w.Tier() != pod.Battery {
		t.Errorf("%s, %v", w.Name(), w.Tier())
	}
	w = must(t, Config{Listen: "[::1]:8843", TokenFile: tokenFile(t, token, 0o600)})
	if w.Name() != "webhook [::1]:8843" {
		t.Error(w.Name())
	}
}
