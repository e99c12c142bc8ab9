package main

import "net/http"

func withNetHTTP(s *service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", s.login)
	mux.Handle("POST /refresh", s.requireLogin(http.HandlerFunc(s.refresh)))
	mux.Handle("GET /me", s.requireLogin(http.HandlerFunc(s.me)))
	mux.Handle("GET /ws", s.requireLogin(s.hub))
	return mux
}

// requireLogin is middleware for net/http, and for chi.
func (s *service) requireLogin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		identified, err := s.identify(r)
		if err != nil {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, identified)
	})
}
