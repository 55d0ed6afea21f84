package handlers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"depot/auth"
)

// Client is the other side of the contract: what a client of this endpoint has to be told.
type Client struct {
	UploadURL       string
	DownloadURLBase string
	UploadToken     string    // "" where uploads are open
	DownloadAuth    auth.Mode // None, QueryParam or BearerHeader
	DownloadParam   string
	DownloadToken   string
}

// NewClient is the other side of a Server: say chooses how a token is put, by the name of its identity and those that are given.
func NewClient(cfg Config, a auth.Config, say func(name string, given []string) string) Client {
	c := Client{UploadURL: cfg.UploadURL, DownloadURLBase: cfg.DownloadURLBase, DownloadAuth: a.DownloadAuth, DownloadParam: a.DownloadParam}
	if a.UploadAuth != auth.None {
		c.UploadToken = say(auth.UploadName, a.UploadToken)
	}
	if a.DownloadAuth != auth.None {
		c.DownloadToken = say(auth.DownloadName, a.DownloadToken)
	}
	return c
}

// Environment is AgentVerse's configuration as environment variables, in a form that a shell, systemd and docker compose
// read alike.
func (c Client) Environment() string {
	lines := [][2]string{
		{"BACKEND", "custom"},
		{"CUSTOM_UPLOAD_URL", c.UploadURL},
		{"CUSTOM_DOWNLOAD_URL_BASE", c.DownloadURLBase},
	}
	if c.UploadToken != "" {
		lines = append(lines, [2]string{"CUSTOM_UPLOAD_AUTH_HEADER", "Bearer " + c.UploadToken})
	}
	lines = append(lines, [2]string{"CUSTOM_DOWNLOAD_AUTH_TYPE", string(c.DownloadAuth)})
	if c.DownloadAuth == auth.QueryParam {
		lines = append(lines, [2]string{"CUSTOM_DOWNLOAD_AUTH_PARAM", c.DownloadParam})
	}
	if c.DownloadAuth != auth.None {
		lines = append(lines, [2]string{"CUSTOM_DOWNLOAD_AUTH_TOKEN", c.DownloadToken})
	}
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "OBJECT_STORE_%s=%s\n", line[0], shellQuote(line[1]))
	}
	return b.String()
}

// TOML is the same as a part of AgentVerse's configuration file.
func (c Client) TOML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[object_store]\nbackend = \"custom\"\n\n[object_store.custom]\nupload_url = %s\ndownload_url_base = %s\n",
		strconv.Quote(c.UploadURL), strconv.Quote(c.DownloadURLBase))
	if c.UploadToken != "" {
		fmt.Fprintf(&b, "upload_auth_header = %s\n", strconv.Quote("Bearer "+c.UploadToken))
	}
	fmt.Fprintf(&b, "\n[object_store.custom.download_auth]\ntype = %s\n", strconv.Quote(string(c.DownloadAuth)))
	if c.DownloadAuth == auth.QueryParam {
		fmt.Fprintf(&b, "param = %s\n", strconv.Quote(c.DownloadParam))
	}
	if c.DownloadAuth != auth.None {
		fmt.Fprintf(&b, "token = %s\n", strconv.Quote(c.DownloadToken))
	}
	return b.String()
}

// CurlUpload is a shell command that uploads an archive it makes itself: an empty zip is 22 bytes. A token may be a
// shell expression; what is in double quotes here is expanded.
func (c Client) CurlUpload(key string) string {
	header := ""
	if c.UploadToken != "" {
		header = ` -H "Authorization: Bearer ` + c.UploadToken + `"`
	}
	return `(printf 'PK\005\006'; head -c 18 /dev/zero) | curl -sS -T -` + header + " " + shellQuote(c.UploadURL+"/"+key)
}

// CurlDownload is a shell command that downloads an archive into a file, the way AgentVerse's users do.
func (c Client) CurlDownload(key, file string) string {
	url := c.DownloadURLBase + "/" + key
	switch c.DownloadAuth {
	case auth.QueryParam:
		return fmt.Sprintf(`curl -sS -f -o %s "%s?%s=%s"`, file, url, c.DownloadParam, c.DownloadToken)
	case auth.BearerHeader:
		return fmt.Sprintf(`curl -sS -f -o %s -H "Authorization: Bearer %s" "%s"`, file, c.DownloadToken, url)
	}
	return fmt.Sprintf(`curl -sS -f -o %s "%s"`, file, url)
}

// Welcome greets someone who just started an endpoint on a directory: what to paste into a shell and, when the tokens
// were just made, into AgentVerse. flags are those the server was started with, for the command that prints them again.
func (c Client) Welcome(dir string, made bool, flags []string) string {
	const key = "demo/hello/1.0.0.zip"
	text := fmt.Sprintf("\ndepot keeps artifacts in %s\n\nUpload an archive (an empty one):\n  %s\n\nDownload it:\n  %s\n\n", dir, c.CurlUpload(key), c.CurlDownload(key, "/tmp/hello.zip"))
	if made {
		return text + fmt.Sprintf("The tokens were made just now and are kept below %s/.depot for the next start.\nAgentVerse's settings:\n\n%s\n", strings.TrimRight(dir, "/"), c.Environment())
	}
	again := "depot client-config"
	for _, f := range flags {
		again += " " + shellQuote(f)
	}
	return text + "AgentVerse's settings, with the tokens: " + again + "\n\n"
}

// ShellRead is a shell expression for a token that is kept in a file.
func ShellRead(path string) string { return "$(cat " + shellQuote(path) + ")" }

func shellQuote(s string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:+=@"
	if s != "" && strings.TrimLeft(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Ready asks the endpoint at a URL whether it is ready, and waits 5 s at most.
func Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{ // not the default one: it would go through a proxy that the environment names
		// On this machine, by an address that the certificate need not name; nothing secret is sent.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("nothing answers: %w: is depot running, and with the same DEPOT_LISTEN?", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return fmt.Errorf("not ready: %s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return nil
}
