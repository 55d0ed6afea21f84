//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// administered starts a server with an admin listener.
func administered(t *testing.T, dir string, env ...string) (p *process, admin string) {
	t.Helper()
	p = serve(t, dir, append([]string{"DEPOT_LISTEN=127.0.0.1:0", "DEPOT_ADMIN_LISTEN=127.0.0.1:0"}, env...))
	return p, p.await(t, "listening for operators, without credentials: metrics, health, profiles")["address"].(string)
}

// endlessUpload is in flight until the test ends: slow, but not so slow that it would be given up.
func endlessUpload(t *testing.T, p *process) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "PUT /in/flight/1.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer up\r\nContent-Length: 500000000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := conn.Write(make([]byte, 128<<10)); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}()
}

// A real Prometheus with the alerts of deploy/ looks at a server under a small load and at others with a fault each. Every query
// of the dashboard has an answer, and every alert is fired by its fault and not without.
func TestMonitoring(t *testing.T) {
	needs(t, "prometheus")
	needs(t, "promtool")
	mounted := t.TempDir()
	if out, err := exec.Command("promtool", "check", "rules", "../alerts.yaml").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"alerts.yaml", "monitoring/prometheus.yaml"} { // side by side, as compose.yaml mounts them
		content, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mounted, filepath.Base(name)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("promtool", "check", "config", filepath.Join(mounted, "prometheus.yaml")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	good, goodAdmin := administered(t, t.TempDir(), given...)
	lost, lostAdmin := administered(t, t.TempDir(), given...)
	drained, drainedAdmin := administered(t, t.TempDir(), append([]string{"DEPOT_DRAIN_TIMEOUT=5m"}, given...)...)
	disk := mount(t, "size=4m")
	full, fullAdmin := administered(t, t.TempDir(), append([]string{"DEPOT_STORE=" + disk}, given...)...)
	dir := t.TempDir()
	if _, stderr, status := run(t, dir, nil, "token", "keygen"); status != 0 {
		t.Fatal(stderr)
	}
	token, _, _ := run(t, dir, nil, "token", "jwt", "--key=depot-signing.pem", "--name=x")
	access := "[[issuer]]\nissuer = \"depot\"\naudience = \"depot\"\njwks_url = \"http://" + freeAddress(t) + "\"\nallow = [\"upload\"]\nnamespaces = [\"*\"]\n"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "access.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(access)
	locked, lockedAdmin := administered(t, dir, "DEPOT_ACCESS_FILE=access.toml")
	gone := freeAddress(t)

	// Prometheus, with the rules as they stand but for the time an alert has to last.
	rules, err := os.ReadFile("../alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	home, address := t.TempDir(), freeAddress(t)
	targets, _ := json.Marshal([]string{goodAdmin, lostAdmin, drainedAdmin, fullAdmin, lockedAdmin, gone})
	for name, content := range map[string]string{
		"rules.yaml":      regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAllString(string(rules), ""),
		"prometheus.yaml": "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n  - job_name: depot\n    static_configs: [{targets: " + string(targets) + "}]\n",
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log := newOutput()
	prometheus := exec.Command("prometheus", "--config.file="+home+"/prometheus.yaml", "--storage.tsdb.path="+home+"/data", "--web.listen-address="+address)
	prometheus.Stdout, prometheus.Stderr = log, log
	if err := prometheus.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = prometheus.Wait(); close(ended) }()
	defer func() { _ = prometheus.Process.Signal(syscall.SIGTERM); <-ended }()

	ask := func(path string, into any) bool {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == 200 && json.NewDecoder(response.Body).Decode(into) == nil
	}
	query := func(expr string) (values []string) {
		var answer struct {
			Data struct {
				Result []struct{ Value [2]any }
			}
		}
		ask("/api/v1/query?query="+url.QueryEscape(expr), &answer)
		for _, r := range answer.Data.Result {
			if text, _ := r.Value[1].(string); text != "NaN" {
				values = append(values, text)
			}
		}
		return values
	}
	// fired are the alerts that fire, each with the addresses it is about.
	fired := func() map[string][]string {
		var answer struct {
			Data struct {
				Alerts []struct {
					State  string
					Labels map[string]string
				}
			}
		}
		ask("/api/v1/alerts", &answer)
		all := map[string][]string{}
		for _, a := range answer.Data.Alerts {
			if a.State == "firing" {
				all[a.Labels["alertname"]] = append(all[a.Labels["alertname"]], a.Labels["instance"])
			}
		}
		return all
	}
	await := func(what string, done func() bool) {
		t.Helper()
		for limit := time.Now().Add(90 * time.Second); !done(); time.Sleep(500 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%s does not come: fired are %v\n%s", what, fired(), log)
			}
		}
	}
	await("the first look at all of them", func() bool { return len(query("depot_build_info")) == 5 && len(query("up")) == 6 })
	await("quiet, but for the one that is gone", func() bool {
		early := fired()
		return len(early) == 1 && len(early["DepotDown"]) == 1 && early["DepotDown"][0] == gone
	})

	// The faults.
	if err := os.Rename(filepath.Join(lost.dir, "depot-data"), filepath.Join(lost.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	endlessUpload(t, drained)
	await("an upload in flight", func() bool { return len(query(`depot_staging_uploads{instance="`+drainedAdmin+`"} == 1`)) == 1 })
	if err := drained.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, text := upload(t, full, "a/b/1.zip", bytes.NewReader(make([]byte, 3_900_000)), 3_900_000); status != http.StatusCreated {
		t.Fatal(status, text)
	}
	write(access + "x = 1\n")
	causes := map[string]string{"DepotDown": gone, "DepotStoreDown": lostAdmin, "DepotUploadsFail": lostAdmin + " " + lockedAdmin, "DepotStoreErrors": lostAdmin, "DepotDiskNearlyFull": fullAdmin,
		"DepotRefusals": lockedAdmin, "DepotIssuerKeysMissing": lockedAdmin, "DepotReloadFails": lockedAdmin, "DepotDrains": drainedAdmin}
	n := 0
	load := func() {
		n++
		do(t, "PUT", fmt.Sprintf("%s/load/x/%d.zip", good.url, n), strings.NewReader("hello"), "Authorization", "Bearer up")
		do(t, "GET", fmt.Sprintf("%s/load/x/%d.zip?token=down", good.url, n), nil)
		do(t, "PUT", fmt.Sprintf("%s/load/x/%d.zip", lost.url, n), strings.NewReader("hello"), "Authorization", "Bearer up")
		for range 5 {
			do(t, "PUT", locked.url+"/load/x/1.zip", strings.NewReader("hello"), "Authorization", "Bearer wrong")
		}
		do(t, "PUT", locked.url+"/load/x/1.zip", strings.NewReader("hello"), "Authorization", "Bearer "+strings.TrimSpace(token))
	}
	await("every alert", func() bool {
		load()
		all := fired()
		for _, name := range names {
			if len(all[name[1]]) == 0 {
				return false
			}
		}
		return true
	})
	for name, instances := range fired() {
		for _, instance := range instances {
			if !strings.Contains(causes[name], instance) {
				t.Errorf("%s fires for %s, want %s only", name, instance, causes[name])
			}
		}
	}
	t.Logf("monitoring: %d alerts fired by their faults", len(names))

	// The dashboard.
	content, err := os.ReadFile("../grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries++
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(target.Expr)
			if values := query(expr); len(values) == 0 {
				t.Errorf("panel %q: nothing comes of %s", panel.Title, expr)
			}
		}
	}
	t.Logf("monitoring: %d panels with %d queries answered", len(dashboard.Panels), queries)

	// However hostile the requests are, the labels are few, and what they say is in none of them.
	for i := range 200 {
		do(t, fmt.Sprintf("CANARY%d", i), fmt.Sprintf("%s/canary%d/x/1.zip?token=canary%d", locked.url, i, i), nil, "Authorization", fmt.Sprintf("Bearer canary%d", i), "User-Agent", "canary", "X-Forwarded-For", "canary")
	}
	_, body := do(t, "GET", "http://"+lockedAdmin+"/metrics", nil)
	series := 0
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "depot_") {
			series++
		}
	}
	if strings.Contains(strings.ToLower(string(body)), "canary") || series > 120 {
		t.Errorf("%d series of one instance", series)
	}
}

// What the admin listener answers, and what only it does.
func TestAdminListener(t *testing.T) {
	p, admin := administered(t, t.TempDir(), given...)
	for _, request := range []struct{ method, path string }{{"PUT", "/a/b/1.zip"}, {"PUT", "/a/b/1.zip"}, {"GET", "/a/b/1.zip?token=down"}, {"GET", "/a/b/2.zip?token=canary-1Hs6"}, {"canary-1Hs6", "/canary-1Hs6"}, {"DELETE", "/canary-1Hs6/x/1.zip"}} {
		do(t, request.method, p.url+request.path, strings.NewReader("hello"), "Authorization", map[bool]string{true: "Bearer up", false: ""}[request.method != "GET"])
	}
	_, body := do(t, "GET", p.url+"/a/b/1.zip?token=down", nil)
	if string(body) != "hello" {
		t.Fatalf("%q", body)
	}
	response, body := do(t, "GET", "http://"+admin+"/metrics", nil)
	text := string(body)
	for _, want := range []string{`depot_uploads_total{outcome="created"} 1`, `depot_uploads_total{outcome="unchanged"} 1`, `depot_requests_total{method="PUT",route="artifact",status="201"} 1`,
		`depot_requests_total{method="other",route="artifact",status="405"} 1`, `depot_requests_total{method="DELETE",route="artifact",status="404"} 1`, `depot_bytes_total{direction="received"} 10`,
		`depot_refusals_total{reason="bad_credentials"} 2`, `depot_refusals_total{reason="not_found"} 1`, `depot_store_up 1`, `depot_draining 0`, `depot_reload_success 1`, `depot_staging_bytes 0`, `depot_requests_in_flight 0`, "process_open_fds", "go_goroutines", "depot_build_info{"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	if response.StatusCode != 200 || strings.Contains(text, "canary") || strings.Contains(text, "a/b") {
		t.Errorf("%s; a client's words are in the metrics:\n%s", response.Status, text)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 404, "/a/b/1.zip?token=down": 404, "/": 404} {
		if response, _ := do(t, "GET", "http://"+admin+path, nil); response.StatusCode != want {
			t.Errorf("admin %s: %s, want %d", path, response.Status, want)
		}
	}
	if response, _ := do(t, "GET", p.url+"/metrics?token=down", nil); response.StatusCode != 400 {
		t.Errorf("/metrics on the main listener: %s", response.Status)
	}
	// While draining it still answers, and says so.
	upload := slowUpload(t, p, "in/flight/1.zip")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.awaitOutput(t, p.stderr, func(log string) bool { return strings.Contains(log, "draining: ") })
	if response, body := do(t, "GET", "http://"+admin+"/readyz", nil); response.StatusCode != 503 || !strings.Contains(string(body), "shutting down") {
		t.Errorf("readyz while draining: %s %s", response.Status, body)
	}
	if _, body := do(t, "GET", "http://"+admin+"/metrics", nil); !strings.Contains(string(body), "depot_draining 1") || !strings.Contains(string(body), "depot_staging_uploads 1") || !strings.Contains(string(body), "depot_staging_bytes 5") {
		t.Error("the metrics do not say that it drains")
	}
	_, _ = upload.Write([]byte("world"))
	if status := p.wait(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, stderr, status := run(t, t.TempDir(), append([]string{"DEPOT_LISTEN=127.0.0.1:0", "DEPOT_ADMIN_LISTEN=203.0.113.1:1"}, given...)); status != 1 || !strings.Contains(stderr, "DEPOT_ADMIN_LISTEN: ") {
		t.Errorf("an address that cannot be had: %d %s", status, stderr)
	}
}
