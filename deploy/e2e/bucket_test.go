package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"depot/store/s3test"
)

// onBucket is the environment of a depot on a bucket of its own, which depot makes.
func onBucket(t testing.TB, server *s3test.Server) []string {
	return append(s3test.Environment(), "DEPOT_STORE=s3://"+server.Bucket()+"/e2e", "DEPOT_S3_ENDPOINT="+server.Endpoint, "DEPOT_S3_CREATE_BUCKET=true", "DEPOT_STAGING_DIR="+t.TempDir())
}

func stagingDir(env []string) string { return value(env, "DEPOT_STAGING_DIR") }

// value is the last one that an environment gives a name.
func value(env []string, name string) (found string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			found = v
		}
	}
	return found
}

// Of 200 uploads of different bytes to one key at once, through three processes on one bucket, one wins, and all three
// serve its bytes from then on.
func TestReplicas(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	env := append(onBucket(t, server), given...)
	var replicas []*process
	for range 3 {
		replicas = append(replicas, serve(t, t.TempDir(), env))
	}
	const uploads = 200
	for _, size := range []int64{4 << 10, 1 << 20, 40 << 20} { // the last is above where minio-go would send several parts
		key := fmt.Sprintf("replicas/%d/1.zip", size)
		statuses := make([]int, uploads)
		var done sync.WaitGroup
		for i := range uploads {
			done.Go(func() {
				r, _ := http.NewRequest(http.MethodPut, replicas[i%3].url+"/"+key, io.LimitReader(endless(i), size))
				r.ContentLength = size
				r.Header.Set("Authorization", "Bearer up")
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Errorf("upload %d: %v", i, err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				statuses[i] = response.StatusCode
			})
		}
		done.Wait()
		winner, counts := -1, map[int]int{}
		for i, status := range statuses {
			if counts[status]++; status == http.StatusCreated {
				winner = i
			}
		}
		t.Logf("replicas: %d uploads of %d KiB through 3 processes: %v", uploads, size>>10, counts)
		if counts[http.StatusCreated] != 1 || counts[http.StatusConflict] != uploads-1 {
			t.Fatalf("%d bytes: the uploads were answered %v", size, counts)
		}
		for _, p := range replicas {
			for range 3 {
				status, got := fetch(t, p, key)
				if status != http.StatusOK || int64(len(got)) != size || len(bytes.Trim(got, string([]byte{byte(winner)}))) != 0 {
					t.Errorf("%d bytes: a replica serves %d, %d bytes, not those of upload %d", size, status, len(got), winner)
				}
			}
		}
	}
	for _, p := range replicas {
		if status := p.stop(t); status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
	if left := files(t, stagingDir(env)); len(left) != 0 {
		t.Errorf("left in the staging directory: %v", left)
	}
}

// careless is a service that knows buckets, and writes whatever the conditions.
func careless(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"d41d8cd98f00b204e9800998ecf8427e"`)
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, `<ListBucketResult><Name>bucket</Name></ListBucketResult>`)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// Every way in which a bucket cannot be used is said at the start, with what to do.
func TestBucketStart(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	good := append(onBucket(t, server), given...)
	made := serve(t, t.TempDir(), good)
	without := func(names ...string) (env []string) {
		for _, e := range good {
			name, _, _ := strings.Cut(e, "=")
			if !strings.Contains(strings.Join(names, " "), name) {
				env = append(env, e)
			}
		}
		return env
	}
	with := func(env ...string) []string { return append(slices.Clone(good), env...) }
	const canary = "canary-1f7Q"
	for name, test := range map[string]struct {
		env    []string
		status int
		want   []string
	}{
		"no credentials":         {without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), 1, []string{"no credentials for the bucket were found: set AWS_ACCESS_KEY_ID"}},
		"half of them":           {without("AWS_SECRET_ACCESS_KEY"), 1, []string{"no credentials for the bucket were found"}},
		"unknown credentials":    {with("AWS_ACCESS_KEY_ID=nobody", "AWS_SECRET_ACCESS_KEY="+canary), 1, []string{"the credentials are wrong: correct AWS_ACCESS_KEY_ID"}},
		"wrong secret":           {with("AWS_SECRET_ACCESS_KEY=" + canary), 1, []string{"the credentials are wrong"}},
		"no bucket":              {with("DEPOT_STORE=s3://no-such-bucket", "DEPOT_S3_CREATE_BUCKET=false"), 1, []string{"no-such-bucket", "404 NoSuchBucket", "set DEPOT_S3_CREATE_BUCKET=true to have it made"}},
		"wrong region":           {with("DEPOT_S3_REGION=eu-central-1"), 1, []string{"set DEPOT_S3_REGION"}},
		"unreachable":            {with("DEPOT_S3_ENDPOINT=http://" + freeAddress(t)), 1, []string{"connection refused", "is DEPOT_S3_ENDPOINT right"}},
		"https for http":         {with("DEPOT_S3_ENDPOINT=" + strings.Replace(server.Endpoint, "http", "https", 1)), 1, []string{"is DEPOT_S3_ENDPOINT right, with the right one of http and https"}},
		"no S3 service":          {with("DEPOT_S3_ENDPOINT=" + made.url), 1, []string{"is DEPOT_S3_ENDPOINT an S3 service?"}},
		"no conditions":          {with("DEPOT_S3_ENDPOINT=" + careless(t)), 1, []string{"does not keep the condition If-None-Match: * on writes", "set DEPOT_OVERWRITE=true"}},
		"staging is a file":      {with("DEPOT_STAGING_DIR=/dev/null"), 1, []string{"DEPOT_STAGING_DIR: /dev/null", "name a directory"}},
		"redirect to itself":     {with("DEPOT_S3_REDIRECT=true", "DEPOT_DOWNLOAD_URL_BASE="+server.Endpoint+"/downloads"), 1, []string{"DEPOT_S3_REDIRECT_ENDPOINT: the redirects would lead to the host and port of DEPOT_DOWNLOAD_URL_BASE itself"}},
		"redirect, default port": {with("DEPOT_S3_REDIRECT=true", "DEPOT_S3_REDIRECT_ENDPOINT=https://Files.example.com:443", "DEPOT_DOWNLOAD_URL_BASE=https://files.example.com"), 1, []string{"DEPOT_S3_REDIRECT_ENDPOINT: the redirects would lead"}},

		"panic in a path":    {with("DEPOT_STAGING_DIR=/dev/null/Config.d"), 1, []string{"DEPOT_STAGING_DIR: /dev/null/Config.d"}},
		"one slash":          {with("DEPOT_STORE=s3:/bucket"), 2, []string{"DEPOT_STORE: give a directory, or a bucket as s3://bucket/prefix"}},
		"redirect to a disk": {with("DEPOT_STORE=./x", "DEPOT_S3_REDIRECT=true"), 2, []string{"DEPOT_S3_REDIRECT: downloads can be redirected to a bucket only"}},
		"no lifetime":        {with("DEPOT_S3_REDIRECT_TTL=0s"), 2, []string{"DEPOT_S3_REDIRECT_TTL: give a duration"}},
		"port":               {with("DEPOT_S3_ENDPOINT=http://x:99999"), 2, []string{"DEPOT_S3_ENDPOINT: its port"}},
		"no tokens":          {without("DEPOT_UPLOAD_TOKEN", "DEPOT_DOWNLOAD_TOKEN"), 2, []string{"DEPOT_UPLOAD_TOKEN: uploads need a token", "DEPOT_DOWNLOAD_TOKEN: downloads need a token"}},
		"no name":            {with("DEPOT_STORE=s3://"), 2, []string{"DEPOT_STORE: the URL names no bucket"}},
		"prefix only":        {with("DEPOT_STORE=s3:///prefix"), 2, []string{"DEPOT_STORE: the URL names no bucket"}},
		"query":              {with("DEPOT_STORE=s3://bucket/x?region=" + canary), 2, []string{"DEPOT_STORE: a bucket URL has no user, password, port, query"}},
		"user":               {with("DEPOT_STORE=s3://key:" + canary + "@bucket"), 2, []string{"DEPOT_STORE: a bucket URL has no user"}},
		"upper case":         {with("DEPOT_STORE=s3://Bucket"), 2, []string{"DEPOT_STORE: S3 allows no such bucket name"}},
		"too short":          {with("DEPOT_STORE=s3://ab"), 2, []string{"DEPOT_STORE: S3 allows no such bucket name"}},
		"an address":         {with("DEPOT_STORE=s3://192.168.1.1"), 2, []string{"DEPOT_STORE: S3 allows no such bucket name"}},
		"dots":               {with("DEPOT_STORE=s3://bucket/../x"), 2, []string{"DEPOT_STORE: the prefix in the bucket"}},
		"no segment":         {with("DEPOT_STORE=s3://bucket/a//b"), 2, []string{"DEPOT_STORE: the prefix in the bucket"}},
		"hidden":             {with("DEPOT_STORE=s3://bucket/.depot"), 2, []string{"DEPOT_STORE: the prefix in the bucket"}},
		"other scheme":       {with("DEPOT_STORE=gs://bucket"), 2, []string{"DEPOT_STORE: give a directory, or a bucket as s3://bucket/prefix"}},
		"endpoint":           {with("DEPOT_S3_ENDPOINT=localhost:9000"), 2, []string{"DEPOT_S3_ENDPOINT: give https:// or http://"}},
		"path":               {with("DEPOT_S3_ENDPOINT=https://x/bucket", "DEPOT_S3_REDIRECT_ENDPOINT=https://u:"+canary+"@x"), 2, []string{"DEPOT_S3_ENDPOINT: give", "DEPOT_S3_REDIRECT_ENDPOINT: give"}},
		"all at once":        {with("DEPOT_S3_PATH_STYLE=yes", "DEPOT_S3_REGION=a b", "DEPOT_S3_CREATE_BUCKET=1x", "DEPOT_S3_REDIRECT=x", "DEPOT_S3_REDIRECT_TTL=200h", "DEPOT_MAX_SIZE=6GiB"), 2, []string{"DEPOT_S3_PATH_STYLE: choose auto, true or false", "DEPOT_S3_REGION: not a region", "DEPOT_S3_CREATE_BUCKET: give true", "DEPOT_S3_REDIRECT: give true", "DEPOT_S3_REDIRECT_TTL: S3 allows", "DEPOT_MAX_SIZE: a bucket takes at most 5GiB"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, stderr, status := run(t, t.TempDir(), append(test.env, "DEPOT_LISTEN=127.0.0.1:0"))
			if status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			for _, want := range test.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if strings.Contains(stderr, canary) || strings.Contains(stderr, s3test.SecretKey) || strings.Contains(strings.ReplaceAll(stderr, "/Config.d", ""), "Config.") {
				t.Error("it says what it must not")
			}
			if t.Failed() {
				t.Logf("it says:\n%s", stderr)
			}
		})
	}
}

// With overwriting allowed, a service without conditions will do.
func TestCarelessService(t *testing.T) {
	serve(t, t.TempDir(), append(append(s3test.Environment(), given...), "DEPOT_STORE=s3://bucket", "DEPOT_S3_ENDPOINT="+careless(t), "DEPOT_OVERWRITE=true"))
}

// Credentials are found wherever AWS's own tools find them.
func TestCredentialChain(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	keys := fmt.Sprintf(`"AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q`, s3test.AccessKey, s3test.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	mux := http.NewServeMux() // the parts of AWS that hand out credentials
	answer := func(path, text string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	answer("/latest/api/token", "session")
	answer("/latest/meta-data/iam/security-credentials/", "role")
	answer("/latest/meta-data/iam/security-credentials/role", `{"Code":"Success",`+keys+`}`)
	answer("/container", `{`+keys+`}`)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { // the token service
		if r.FormValue("WebIdentityToken") != "identity" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/depot" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration><SessionToken></SessionToken></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
			s3test.AccessKey, s3test.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	})
	aws := httptest.NewServer(mux)
	defer aws.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	profiles := write("credentials", fmt.Sprintf("[default]\naws_access_key_id=x\naws_secret_access_key=y\n[artifacts]\naws_access_key_id=%s\naws_secret_access_key=%s\n", s3test.AccessKey, s3test.SecretKey))
	identity := write("identity", "identity")
	for name, env := range map[string][]string{
		"environment":   s3test.Environment(),
		"shared file":   {"AWS_EC2_METADATA_DISABLED=true", "AWS_SHARED_CREDENTIALS_FILE=" + profiles, "AWS_PROFILE=artifacts"},
		"web identity":  {"AWS_WEB_IDENTITY_TOKEN_FILE=" + identity, "AWS_ROLE_ARN=arn:aws:iam::1:role/depot", "AWS_ENDPOINT_URL_STS=" + aws.URL},
		"container":     {"AWS_CONTAINER_CREDENTIALS_FULL_URI=" + aws.URL + "/container"},
		"instance role": {"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + aws.URL},
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t, t.TempDir(), append(append(env, given...), "DEPOT_STORE=s3://"+server.Bucket(), "DEPOT_S3_ENDPOINT="+server.Endpoint, "DEPOT_S3_CREATE_BUCKET=true"))
			if response, text := do(t, "PUT", p.url+"/a/b/1.zip", strings.NewReader("x"), "Authorization", "Bearer up"); response.StatusCode != 201 {
				t.Errorf("%s %s", response.Status, text)
			}
		})
	}
}

// Downloads by redirect: anyone who follows it gets the bytes, for a while; what asks about depot's own ETag, and HEAD, is
// answered here.
func TestRedirect(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	const ttl = 2 * time.Second
	p := serve(t, t.TempDir(), append(append(onBucket(t, server), given...), "DEPOT_S3_REDIRECT=true", "DEPOT_S3_REDIRECT_TTL="+ttl.String()))
	body := bytes.Repeat([]byte("artifact"), 10_000)
	url := p.url + "/red/irect/1.0.0+b.5.zip"
	if response, text := do(t, "PUT", url, bytes.NewReader(body), "Authorization", "Bearer up"); response.StatusCode != 201 {
		t.Fatal(response.Status, string(text))
	}
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, url string, headers ...string) *http.Response {
		r, _ := http.NewRequestWithContext(context.Background(), method, url, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		response, err := stay.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response
	}
	bearer := []string{"Authorization", "Bearer down"}
	response := ask("GET", url, bearer...)
	target := response.Header.Get("Location")
	if response.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(target, server.Endpoint+"/") || response.Header.Get("Cache-Control") != "private, no-store" {
		t.Fatalf("%s, %v", response.Status, response.Header)
	}
	made := time.Now()
	if other, got := do(t, "GET", target, nil); other.StatusCode != 200 || !bytes.Equal(got, body) || other.Header.Get("Content-Disposition") != `attachment; filename="irect-1.0.0+b.5.zip"` || other.Header.Get("Content-Type") != "application/zip" {
		t.Errorf("another client gets %s, %d bytes, %v", other.Status, len(got), other.Header)
	}
	if part, got := do(t, "GET", target, nil, "Range", "bytes=8-15"); part.StatusCode != 206 || string(got) != "artifact" {
		t.Errorf("a range of it: %s %s", part.Status, got)
	}
	if followed, got := do(t, "GET", url+"?token=down", nil); followed.StatusCode != 200 || !bytes.Equal(got, body) {
		t.Errorf("a client that follows: %s, %d bytes", followed.Status, len(got))
	}
	head := ask("HEAD", url, bearer...)
	if head.StatusCode != 200 || head.ContentLength != int64(len(body)) || head.Header.Get("Repr-Digest") == "" {
		t.Errorf("HEAD: %s, %v", head.Status, head.Header)
	}
	for want, condition := range map[int][]string{304: {"If-None-Match", head.Header.Get("ETag")}, 200: {"If-Match", head.Header.Get("ETag")}, 412: {"If-Match", `"x"`}} {
		if response := ask("GET", url, append(condition, bearer...)...); response.StatusCode != want {
			t.Errorf("%v: %s, want %d", condition, response.Status, want)
		}
	}
	if response := ask("GET", p.url+"/red/irect/2.zip", bearer...); response.StatusCode != 404 {
		t.Errorf("a missing artifact: %s", response.Status)
	}
	if response := ask("GET", url); response.StatusCode != 401 {
		t.Errorf("no token: %s", response.Status)
	}
	elsewhere := serve(t, t.TempDir(), append(p.cmd.Env, "DEPOT_S3_REDIRECT_ENDPOINT=https://files.example.com", "DEPOT_S3_PATH_STYLE=auto"))
	response = ask("GET", strings.Replace(url, p.url, elsewhere.url, 1), bearer...)
	if target := response.Header.Get("Location"); !strings.HasPrefix(target, "https://files.example.com/"+strings.Split(value(p.cmd.Env, "DEPOT_STORE"), "/")[2]+"/e2e/red/irect/1.0.0%2Bb.5.zip?") {
		t.Errorf("with another address for clients: %s, %s", response.Status, target)
	}
	time.Sleep(time.Until(made.Add(ttl + time.Second)))
	if other, _ := do(t, "GET", target, nil); other.StatusCode != 403 {
		t.Errorf("after %v the URL is answered %s", ttl, other.Status)
	}
	if log := p.stderr.String(); strings.Contains(log, "Signature") || strings.Contains(log, "X-Amz") {
		t.Errorf("a presigned URL is in the log:\n%s", log)
	}
}

// Buckets by host name, reached through the proxy that the environment names, as in many companies.
func TestVirtualHostStyle(t *testing.T) {
	server := s3test.VersitygwVirtual.Start(t)
	bucket := server.Bucket()
	hosts := sync.Map{}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts.Store(r.Host, true)
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Host = "", strings.TrimPrefix(server.Endpoint, "http://")
		response, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		for name, values := range response.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	}))
	defer proxy.Close()
	env := append(append(s3test.Environment(), given...), "DEPOT_STORE=s3://"+bucket, "DEPOT_S3_ENDPOINT=http://s3.test", "DEPOT_S3_PATH_STYLE=false", "HTTP_PROXY="+proxy.URL)
	if _, stderr, status := run(t, t.TempDir(), append(env, "DEPOT_LISTEN=127.0.0.1:0")); status != 1 || !strings.Contains(stderr, "404 NoSuchBucket") {
		t.Errorf("without the bucket: %d, %s", status, stderr)
	}
	p := serve(t, t.TempDir(), append(env, "DEPOT_S3_CREATE_BUCKET=true"))
	if response, text := do(t, "PUT", p.url+"/a/b/1.zip", strings.NewReader("x"), "Authorization", "Bearer up"); response.StatusCode != 201 {
		t.Errorf("%s %s", response.Status, text)
	}
	if status, got := fetch(t, p, "a/b/1.zip"); status != 200 || string(got) != "x" {
		t.Errorf("%d %s", status, got)
	}
	if _, found := hosts.Load(bucket + ".s3.test"); !found {
		t.Error("the bucket was not asked for by its host name")
	}
}

// The service goes away and comes back: refusals meanwhile, and no restart.
func TestBucketOutage(t *testing.T) {
	server := s3test.Versitygw.Start(t)
	p := serve(t, t.TempDir(), append(onBucket(t, server), given...))
	put := func(key string) int {
		response, _ := do(t, "PUT", p.url+"/"+key, strings.NewReader("hello"), "Authorization", "Bearer up")
		return response.StatusCode
	}
	if status := put("out/age/1.zip"); status != 201 {
		t.Fatal(status)
	}
	server.Stop()
	if status := put("out/age/2.zip"); status != 503 {
		t.Errorf("an upload: %d", status)
	}
	if status, _ := fetch(t, p, "out/age/1.zip"); status != 503 {
		t.Errorf("a download: %d", status)
	}
	if response, _ := do(t, "DELETE", p.url+"/out/age/1.zip", nil, "Authorization", "Bearer up"); response.StatusCode != 503 {
		t.Errorf("a delete: %s", response.Status)
	}
	if response, _ := do(t, "GET", p.url+"/readyz", nil); response.StatusCode != 503 {
		t.Errorf("readyz: %s", response.Status)
	}
	s3test.Versitygw.Restart(t, server)
	if status, got := fetch(t, p, "out/age/1.zip"); status != 200 || string(got) != "hello" {
		t.Errorf("afterwards: %d", status)
	}
	if status := put("out/age/2.zip"); status != 201 {
		t.Errorf("afterwards, an upload: %d", status)
	}
	bucket := strings.Split(strings.TrimPrefix(value(p.cmd.Env, "DEPOT_STORE"), "s3://"), "/")[0]
	if err := os.Rename(filepath.Join(server.Dir, bucket), filepath.Join(server.Dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if status, _ := fetch(t, p, "out/age/1.zip"); status != 503 {
		t.Errorf("a download from a bucket that is gone: %d", status)
	}
	if response, _ := do(t, "HEAD", p.url+"/out/age/1.zip?token=down", nil); response.StatusCode != 503 {
		t.Errorf("HEAD in a bucket that is gone: %s", response.Status)
	}
	if status := put("out/age/3.zip"); status != 503 {
		t.Errorf("an upload to a bucket that is gone: %d", status)
	}
}
