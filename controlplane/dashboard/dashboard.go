// Package dashboard is the page that shows what runs: lanes of clients, words, attainment, kernels and why they were not joined.
//
//	page/{index.html,app.js,style.css} ─embed─► Handler; the page polls /v1/status and /v1/kernels beside it
//
// It needs nothing from outside, takes no input, and shows all that clients chose (labels, programs, names of kernels) as text.
package dashboard

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed page/index.html page/app.js page/style.css
var files embed.FS

// policy allows the page its own script, style and requests, and nothing else: what a client chose cannot become any of it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// Protect sets the headers that every answer beside the page must have too, so that none of it can be used as a page, framed, or
// read by another site.
func Protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// Handler serves the page at / and its parts beside it, everything else as not found.
func Handler() http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	server := http.FileServerFS(page)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Protect(w.Header())
		server.ServeHTTP(w, r)
	})
}
