package main

import (
	"net/http"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

func withChi(s *service) http.Handler {
	router := chi.NewRouter()
	router.Use(middleware.Recoverer, middleware.Compress(5))
	router.Post("/login", s.login)
	router.Group(func(router chi.Router) {
		router.Use(s.requireLogin)
		router.Post("/refresh", s.refresh)
		router.Get("/me", s.me)
		router.Handle("/ws", s.hub)
	})
	return router
}
