package auth

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table says who may do what, for people: a line for each token, without any secret.
func (a *Authenticator) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(w, "NAME\tMAY\tIN\tUNTIL") // a strings.Builder does not fail
	row := func(id Identity, until string) {
		for _, g := range id.grants {
			names := make([]string, len(g.namespaces))
			for i, p := range g.namespaces {
				names[i] = p.String()
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", id.Name, g.actions, strings.Join(names, ", "), until)
		}
	}
	if a.open != 0 {
		row(a.anyone(), "")
	}
	for _, t := range a.tokens {
		until := ""
		if !t.expires.IsZero() {
			until = t.expires.UTC().Format("2006-01-02 15:04 MST")
		}
		row(t.identity, until)
	}
	_ = w.Flush()
	return b.String()
}

// Explain says whether a token lets its holder do something in a namespace, and why or why not. It never repeats the token.
func (a *Authenticator) Explain(secret string, action Action, namespace string) (allowed bool, why string) {
	id, err := a.Authenticate(action, Credentials{Authorization: []string{"Bearer " + secret}})
	switch {
	case err != nil:
		return false, err.Error()
	case !id.May(action, namespace):
		return false, fmt.Sprintf("%s may not %s in %s", id.Name, action, namespace)
	}
	return true, fmt.Sprintf("%s may %s in %s", id.Name, action, namespace)
}

// Entry is a token's entry for an access file, for people to paste and change. It holds the token's digest only.
func Entry(name, token string) string {
	return fmt.Sprintf("[[token]]\nname = %q\nsha256 = \"%x\"\nallow = [\"upload\"]\nnamespaces = [\"*\"]", name, digestOf(token))
}
