package main

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

func withEcho(s *service) http.Handler {
	router := echo.New()
	router.Use(middleware.Recover(), middleware.Gzip())
	router.POST("/login", echo.WrapHandler(http.HandlerFunc(s.login)))
	users := router.Group("", s.echoLogin)
	users.POST("/refresh", echo.WrapHandler(http.HandlerFunc(s.refresh)))
	users.GET("/me", echo.WrapHandler(http.HandlerFunc(s.me)))
	users.GET("/ws", echo.WrapHandler(s.hub))
	return router
}

func (s *service) echoLogin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		identified, err := s.identify(c.Request())
		if err != nil {
			return echo.ErrUnauthorized
		}
		c.SetRequest(identified)
		return next(c)
	}
}
