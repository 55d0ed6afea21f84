package contract_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"depot/handlers/contract"
)

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
