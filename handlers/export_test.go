package handlers

// Routes are the paths that the server has an answer of its own for, with their methods.
func (s *Server) Routes() (routes []string) {
	for _, r := range s.echo.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
	}
	for path := range s.adminRoutes() {
		routes = append(routes, "GET "+path, "HEAD "+path)
	}
	return routes
}
