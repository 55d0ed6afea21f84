package contract_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"depot/handlers/contract"
)

var endpoint struct {
	contract.Endpoint
	uploadToken, downloadToken string
}

func TestMain(m *testing.M) {
	e := &endpoint.Endpoint
	flag.StringVar(&e.UploadURL, "upload-url", "", "check the endpoint at this upload_url")
	flag.StringVar(&e.DownloadURLBase, "download-url-base", "", "its download_url_base")
	flag.StringVar(&endpoint.uploadToken, "upload-token", "", "its upload tokens, with commas between them; empty: uploads are open")
	flag.StringVar(&e.DownloadAuth, "download-auth", "query_param", "query_param, bearer_header or none")
	flag.StringVar(&e.DownloadParam, "download-param", "token", "name of the query parameter")
	flag.StringVar(&endpoint.downloadToken, "download-token", "", "its download tokens, with commas between them")
	flag.BoolVar(&e.Proxy, "proxy", false, "a proxy is in front, which may refuse what is malformed by itself")
	flag.BoolVar(&e.Overwrite, "overwrite", false, "uploads replace other bytes")
	flag.Int64Var(&e.MaxSize, "max-size", 0, "its limit in bytes; 0: not checked")
	flag.DurationVar(&e.Patience, "patience", 0, "the time in which 64 KiB of a body have to come; 0 or above 5s: not checked")
	flag.Parse()
	os.Exit(m.Run())
}

// TestEndpoint checks an endpoint that runs already, in whatever language: see README.md. Without one there is nothing to
// check here; depot's own tests run the same checks.
func TestEndpoint(t *testing.T) {
	e := endpoint.Endpoint
	if e.UploadURL == "" {
		return
	}
	if endpoint.uploadToken != "" {
		e.UploadTokens = strings.Split(endpoint.uploadToken, ",")
	}
	if endpoint.downloadToken != "" {
		e.DownloadTokens = strings.Split(endpoint.downloadToken, ",")
	}
	contract.Run(t, e)
}

// The README is the contract for people; it must have exactly the statements that are checked, under the same numbers.
func TestReadmeHasTheStatements(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	numbered := regexp.MustCompile(`(?m)^\d+\. \*\*(.+)\*\*`).FindAllStringSubmatch(string(readme), -1)
	statements := contract.Statements()
	for i, text := range statements {
		if want := fmt.Sprintf("\n%d. **%s**", i+1, text); !strings.Contains(string(readme), want) {
			t.Errorf("README.md has no line %q", want)
		}
	}
	if len(numbered) != len(statements) {
		t.Errorf("README.md has %d numbered statements, %d are checked", len(numbered), len(statements))
	}
}
