package main

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

func withGin(s *service) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.POST("/login", gin.WrapF(s.login))
	users := router.Group("/", s.ginLogin)
	users.POST("/refresh", gin.WrapF(s.refresh))
	users.GET("/me", gin.WrapF(s.me))
	users.GET("/ws", gin.WrapH(s.hub))
	return router
}

func (s *service) ginLogin(c *gin.Context) {
	identified, err := s.identify(c.Request)
	if err != nil {
		c.AbortWithStatus(http.StatusUnauthorized)
		return
	}
	c.Request = identified
}
