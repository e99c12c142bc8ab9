module github.com/heraldgo/herald/test/js

go 1.26.0

require github.com/heraldgo/herald v0.1.0

replace github.com/heraldgo/herald => ../..
