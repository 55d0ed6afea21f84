package contract

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

func access() []statement {
	return []statement{
		{text: "uploads and deletes without credentials are 401 with WWW-Authenticate: Bearer and no error code", check: uploadMissing, when: uploadAuth},
		{text: "uploads and deletes with bad credentials of every kind are 401", check: uploadBad, when: uploadAuth},
		{text: "a 401 for a header without the scheme says that upload_auth_header is the whole value", check: schemeAdvice, when: uploadAuth},
		{text: "uploads and deletes without credentials are accepted where they are open", check: uploadOpen, when: func(e Endpoint) bool { return !uploadAuth(e) }},
		{text: "every one of several upload tokens is good", check: everyUploadToken, when: uploadAuth},
		{text: "downloads without credentials are 401, the same for stored and missing keys", check: downloadMissing, when: downloadAuth},
		{text: "downloads with bad credentials of every kind are 401, the same for stored and missing keys", check: downloadBad, when: downloadAuth},
		{text: "downloads need no credentials where they are open", check: downloadOpen, when: openDownload},
		{text: "every one of several download tokens is good as a bearer header", check: everyDownloadToken, when: downloadAuth},
		{text: "every one of several download tokens is good in the query", check: everyQueryToken, when: queryParam},
		{text: "a wrong, empty or repeated query token is 401, and so is one under another name", check: badQueryTokens, when: queryParam},
		{text: "a token in the query counts for nothing where the mode is bearer_header", check: noQueryToken, when: noQuery},
		{text: "a query token never authenticates an upload or a delete", check: queryTokenOnUpload, when: uploadAuth},
		{text: "an Authorization header alone decides, even an empty one, and two of them are 401", check: headerDecides, when: queryParam},
		{text: "a download token does not upload or delete: 403", check: downloadTokenUploads, when: func(e Endpoint) bool { return uploadAuth(e) && downloadAuth(e) }},
		{text: "an upload token does not download: 403", check: uploadTokenDownloads, when: func(e Endpoint) bool { return uploadAuth(e) && downloadAuth(e) }},
		{text: "nothing is decided before the credentials: not the key, not the type, not the length", check: credentialsFirst, when: uploadAuth},
	}
}

var badAuthorizations = []string{"", " ", "Bearer", "Bearer ", "Bearer wrong", "Basic d3Jvbmc6d3Jvbmc=", "bearer:wrong", "Bearer null", "Bearer \"\"", "wrong", "Bearer wrong wrong",
	"Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer " + "x1234567890", "Token wrong"}

func (c *check) unauthenticated(a *answer, what, challenge string) {
	c.Helper()
	c.is(a, what, http.StatusUnauthorized)
	c.has(a, header{"WWW-Authenticate", challenge})
}

const invalidToken = `Bearer error="invalid_token"`

func uploadMissing(c *check) {
	key, body := c.key("1.0.0.zip"), random(10)
	stored := c.key("1.0.0.zip")
	c.stored(stored, body)
	for _, k := range []string{key, stored} {
		c.unauthenticated(c.do(http.MethodPut, c.e.UploadURL+"/"+k, bytes.NewReader(body)), "PUT", "Bearer")
		c.unauthenticated(c.do(http.MethodDelete, c.e.UploadURL+"/"+k, nil), "DELETE", "Bearer")
	}
	c.absent(key)
	c.holds(stored, body)
}

func uploadBad(c *check) {
	stored, key, body := c.key("1.0.0.zip"), c.key("1.0.0.zip"), random(10)
	c.stored(stored, body)
	good := c.e.UploadTokens[0]
	bad := append(badAuthorizations, good, "Basic "+good, "Bearer "+good+"x", "Bearer "+good[:len(good)-1], "Bearer x"+good, "Bearer "+good+","+good, "Bearer "+good+" "+good, "Bearer\t"+good)
	for _, value := range bad {
		h := header{"Authorization", value}
		c.unauthenticated(c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(body), h), fmt.Sprintf("PUT with %q", value), invalidToken)
		c.unauthenticated(c.do(http.MethodDelete, c.e.UploadURL+"/"+stored, nil, h), fmt.Sprintf("DELETE with %q", value), invalidToken)
	}
	two := header{"Authorization", "Bearer " + good, "Authorization", "Bearer " + good}
	c.unauthenticated(c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(body), two), "PUT with two", invalidToken)
	c.absent(key)
	c.holds(stored, body)
	c.is(c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(body), header{"Authorization", "bEARER " + good}), "the scheme in another case", http.StatusCreated)
}

func schemeAdvice(c *check) {
	a := c.do(http.MethodPut, c.e.UploadURL+"/"+c.key("1.0.0.zip"), bytes.NewReader(random(10)), header{"Authorization", c.e.UploadTokens[0]})
	c.says(c.is(a, "the token alone", http.StatusUnauthorized), "Bearer", "upload_auth_header")
}

func uploadOpen(c *check) {
	for _, h := range []header{nil, {"Authorization", "Bearer whatever"}} {
		key := c.key("1.0.0.zip")
		c.is(c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(random(10)), h), "PUT", http.StatusCreated)
		c.is(c.do(http.MethodDelete, c.e.UploadURL+"/"+key, nil, h), "DELETE", http.StatusNoContent)
	}
}

func everyUploadToken(c *check) {
	for _, token := range c.e.UploadTokens {
		key := c.key("1.0.0.zip")
		c.is(c.do(http.MethodPut, c.e.UploadURL+"/"+key, bytes.NewReader(random(10)), bearer(token)), "PUT", http.StatusCreated)
		c.is(c.do(http.MethodDelete, c.e.UploadURL+"/"+key, nil, bearer(token)), "DELETE", http.StatusNoContent)
	}
}

// sameForBoth asks for a stored and for a missing key and fails unless both answers are the same 401.
func (c *check) sameForBoth(what, challenge, query string, h header) {
	c.Helper()
	stored := c.key("1.0.0.zip")
	c.stored(stored, random(10))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		var first *answer
		for _, key := range []string{stored, c.key("1.0.0.zip")} {
			a := c.do(method, c.e.DownloadURLBase+"/"+key+query, nil, h)
			c.unauthenticated(a, method+" "+what, challenge)
			a.body = bytes.ReplaceAll(a.body, []byte(a.Header.Get("X-Request-Id")), nil)
			for _, name := range []string{"X-Request-Id", "Date"} {
				a.Header.Del(name)
			}
			if first != nil && (!bytes.Equal(a.body, first.body) || fmt.Sprint(a.Header) != fmt.Sprint(first.Header)) {
				c.Errorf("%s: a stored key is answered %v %q, a missing one %v %q", what, first.Header, first.body, a.Header, a.body)
			}
			first = a
		}
	}
}

func downloadMissing(c *check) { c.sameForBoth("without credentials", "Bearer", "", nil) }

func downloadBad(c *check) {
	for _, value := range badAuthorizations {
		c.sameForBoth(fmt.Sprintf("with %q", value), invalidToken, "", header{"Authorization", value})
	}
	good := "Bearer " + c.e.DownloadTokens[0]
	c.sameForBoth("with two", invalidToken, "", header{"Authorization", good, "Authorization", good})
	c.sameForBoth("with a longer one", invalidToken, "", header{"Authorization", good + "x"})
}

func downloadOpen(c *check) {
	key, body := c.key("1.0.0.zip"), random(10)
	c.stored(key, body)
	for _, h := range []header{nil, {"Authorization", "Bearer whatever"}} {
		c.is(c.do(http.MethodGet, c.e.DownloadURLBase+"/"+key, nil, h), "GET", http.StatusOK)
	}
}

func everyDownloadToken(c *check) {
	key, body := c.key("1.0.0.zip"), random(10)
	c.stored(key, body)
	for _, token := range c.e.DownloadTokens {
		c.is(c.do(http.MethodGet, c.e.DownloadURLBase+"/"+key, nil, bearer(token)), "GET", http.StatusOK)
	}
}

func (c *check) query(tokens ...string) string {
	for i := range tokens {
		tokens[i] = c.e.DownloadParam + "=" + tokens[i]
	}
	return "?" + strings.Join(tokens, "&")
}

func everyQueryToken(c *check) {
	key, body := c.key("1.0.0.zip"), random(10)
	c.stored(key, body)
	for _, token := range c.e.DownloadTokens {
		for _, query := range []string{c.query(token), "?x=y&" + c.query(token)[1:], c.query(token) + "&x=y"} {
			c.is(c.do(http.MethodGet, c.e.DownloadURLBase+"/"+key+query, nil), "GET", http.StatusOK)
		}
	}
}

func badQueryTokens(c *check) {
	good := c.e.DownloadTokens[0]
	for _, query := range []string{c.query("wrong"), c.query(""), c.query(good + "x"), c.query(good, good), c.query(good, "wrong"), c.query("wrong", good), "?" + c.e.DownloadParam} {
		c.sameForBoth(strings.ReplaceAll(query, good, "<good>"), invalidToken, query, nil)
	}
	for _, query := range []string{"?other=" + good, "?" + strings.ToUpper(c.e.DownloadParam) + "x=" + good, "?" + good, "?"} {
		c.sameForBoth(strings.ReplaceAll(query, good, "<good>"), "Bearer", query, nil)
	}
}

func noQueryToken(c *check) {
	for _, param := range []string{"token", "access_token", c.e.DownloadParam} {
		c.sameForBoth("a query token", "Bearer", "?"+param+"="+c.e.DownloadTokens[0], nil)
	}
}

func queryTokenOnUpload(c *check) {
	key := c.key("1.0.0.zip")
	tokens := append([]string{c.e.UploadTokens[0]}, c.e.DownloadTokens...)
	for _, token := range tokens {
		for _, param := range []string{"token", "access_token", c.e.DownloadParam} {
			u := c.e.UploadURL + "/" + key + "?" + param + "=" + url.QueryEscape(token)
			c.unauthenticated(c.do(http.MethodPut, u, bytes.NewReader(random(10))), "PUT", "Bearer")
			c.unauthenticated(c.do(http.MethodDelete, u, nil), "DELETE", "Bearer")
		}
	}
	c.absent(key)
}

func headerDecides(c *check) {
	key, body := c.key("1.0.0.zip"), random(10)
	c.stored(key, body)
	good := c.e.DownloadTokens[0]
	u := c.e.DownloadURLBase + "/" + key
	for _, value := range []string{"", "Bearer wrong", "Basic x"} {
		c.unauthenticated(c.do(http.MethodGet, u+c.query(good), nil, header{"Authorization", value}), fmt.Sprintf("a good query token and %q", value), invalidToken)
	}
	for _, query := range []string{c.query("wrong"), c.query(good, good)} {
		c.is(c.do(http.MethodGet, u+query, nil, bearer(good)), "a good header and a bad query token", http.StatusOK)
	}
}

func downloadTokenUploads(c *check) {
	stored, key, body := c.key("1.0.0.zip"), c.key("1.0.0.zip"), random(10)
	c.stored(stored, body)
	for _, token := range c.e.DownloadTokens {
		for _, k := range []string{stored, key} {
			a := c.is(c.do(http.MethodPut, c.e.UploadURL+"/"+k, bytes.NewReader(random(11)), bearer(token)), "PUT", http.StatusForbidden)
			c.has(a, header{"WWW-Authenticate", `Bearer error="insufficient_scope"`})
			c.is(c.do(http.MethodDelete, c.e.UploadURL+"/"+k, nil, bearer(token)), "DELETE", http.StatusForbidden)
		}
	}
	c.absent(key)
	c.holds(stored, body)
}

func uploadTokenDownloads(c *check) {
	stored := c.key("1.0.0.zip")
	c.stored(stored, random(10))
	for _, token := range c.e.UploadTokens {
		for _, k := range []string{stored, c.key("1.0.0.zip")} {
			c.is(c.do(http.MethodGet, c.e.DownloadURLBase+"/"+k, nil, bearer(token)), "GET", http.StatusForbidden)
			if queryParam(c.e) {
				c.is(c.do(http.MethodGet, c.e.DownloadURLBase+"/"+k+c.query(url.QueryEscape(token)), nil), "GET", http.StatusForbidden)
			}
		}
	}
}

func credentialsFirst(c *check) {
	stored := c.key("1.0.0.zip")
	c.stored(stored, random(10))
	for _, key := range []string{"../x.zip", "ns/name", "ns/na%2Fme/1.zip", c.key("1.0.0.zip"), stored} {
		key = strings.ReplaceAll(key, "..", "%2e%2e")
		for _, rest := range []string{"Content-Type: multipart/form-data\r\nContent-Length: 10\r\n", "Content-Encoding: gzip\r\nContent-Length: 10\r\n", "", "Content-Length: 99999999999999\r\n",
			"Content-Length: 0\r\n", "If-None-Match: *\r\nContent-Length: 3\r\n", "Repr-Digest: nonsense\r\nContent-Length: 3\r\n", "Content-Range: bytes 0-1/2\r\nContent-Length: 3\r\n"} {
			if c.e.Proxy && strings.Contains(rest, "99999999999999") {
				continue // it may wait for all that was announced
			}
			request := strings.Replace(c.rawPut(key), c.e.UploadTokens[0], "wrong", 1) + rest + "\r\n"
			a, _ := c.raw(c.e.UploadURL, request)
			c.is(a, key+" "+rest, http.StatusUnauthorized)
		}
	}
	// And then the key, before permission; permission before everything else.
	if downloadAuth(c.e) {
		a := c.do(http.MethodPut, c.e.UploadURL+"/ns/name", bytes.NewReader(random(10)), bearer(c.e.DownloadTokens[0]))
		c.is(a, "a bad key without permission", http.StatusBadRequest)
		a = c.do(http.MethodPut, c.e.UploadURL+"/"+stored, bytes.NewReader(random(10)), bearer(c.e.DownloadTokens[0]), header{"Content-Type", "multipart/form-data"})
		c.is(a, "a bad type without permission", http.StatusForbidden)
	}
}
