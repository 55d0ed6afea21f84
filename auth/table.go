package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table says who may do what, for people: a line for each token and issuer, without any secret.
func (a *Authenticator) Table() string {
	p := a.policy.Load()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) } // a strings.Builder does not fail
	if head := []string{"NAME", "MAY", "IN", "UNTIL", "IF"}; len(p.issuers) > 0 {
		row(head...)
	} else {
		row(head[:4]...)
	}
	identity := func(id Identity, until string) {
		for _, g := range id.grants {
			row(id.Name, g.actions.String(), join(g.namespaces[0]), until, "")
		}
	}
	if p.open != 0 {
		identity(p.anyone(), "")
	}
	for _, t := range p.tokens {
		until := ""
		if !t.expires.IsZero() {
			until = t.expires.UTC().Format("2006-01-02 15:04 MST")
		}
		identity(t.identity, until)
	}
	for _, i := range p.issuers {
		in := join(i.namespaces)
		if i.claim != "" {
			in = strings.TrimSuffix("the one in "+i.claim+", of "+in, ", of *")
		}
		until := "its exp"
		if i.maxTTL > 0 {
			until += fmt.Sprintf(", %v at most", i.maxTTL)
		}
		conditions := []string{"iss = " + i.url, "aud = " + i.audience}
		for _, name := range slices.Sorted(maps.Keys(i.require)) {
			want, _ := json.Marshal(i.require[name]) // of what TOML can hold: it does not fail
			conditions = append(conditions, name+" = "+string(want))
		}
		row(i.name+":<sub>", i.actions.String(), in, until, strings.Join(conditions, ", "))
	}
	_ = w.Flush()
	var text strings.Builder
	for line := range strings.Lines(b.String()) {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return text.String()
}

func join(patterns []pattern) string {
	names := make([]string, len(patterns))
	for i, p := range patterns {
		names[i] = p.String()
	}
	return strings.Join(names, ", ")
}

// Explain says whether a token lets its holder do something in a namespace, and why or why not. It never repeats the token.
func (a *Authenticator) Explain(ctx context.Context, secret string, action Action, namespace string) (allowed bool, why string) {
	id, err := a.Authenticate(ctx, action, Credentials{Authorization: []string{"Bearer " + secret}})
	switch {
	case err != nil:
		return false, err.Error()
	case !id.May(action, namespace):
		return false, id.Refusal(action, "in "+namespace)
	}
	return true, fmt.Sprintf("%s may %s in %s", id.Name, action, namespace)
}

// Refusal says that someone may not do something somewhere, and why, where a claim of their token is the reason.
func (id Identity) Refusal(action Action, where string) string {
	text := fmt.Sprintf("%s may not %s %s", id.Name, action, where)
	if id.Lacks != "" {
		text += ": " + id.Lacks
	}
	return text
}

// Entry is a token's entry for an access file, for people to paste and change. It holds the token's digest only.
func Entry(name, token string) string {
	return fmt.Sprintf("[[token]]\nname = %q\nsha256 = \"%x\"\nallow = [\"upload\"]\nnamespaces = [\"*\"]", name, digestOf(token))
}
