package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"golang.org/x/crypto/bcrypt"
	_ "modernc.org/sqlite"
)

// A store is the shop's database. Nothing in it is about WebSockets.
type store struct{ db *sql.DB }

const schema = `
CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY, password BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS logins (token BLOB PRIMARY KEY, customer TEXT NOT NULL, expires INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
	id INTEGER PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL,
	state TEXT NOT NULL DEFAULT 'paid',
	version INTEGER NOT NULL DEFAULT 1, -- rises with each change
	told INTEGER NOT NULL DEFAULT 0 -- whether the customer knows of the state
)`

// newStore makes the tables, and two customers whose passwords are their names.
func newStore(ctx context.Context, db *sql.DB) (*store, error) {
	db.SetMaxOpenConns(1) // SQLite has one writer
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, err
	}
	for _, name := range []string{"anna", "bert"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		if _, err := db.ExecContext(ctx, `INSERT INTO customers VALUES (?, ?) ON CONFLICT DO NOTHING`, name, hash); err != nil {
			return nil, err
		}
	}
	return &store{db}, nil
}

var errNoLogin = errors.New("not logged in")

// login checks a password and returns the token of a new login.
func (s *store) login(ctx context.Context, name, password string, expires time.Time) (token string, err error) {
	var hash []byte
	err = s.db.QueryRowContext(ctx, `SELECT password FROM customers WHERE name = ?`, name).Scan(&hash)
	if errors.Is(err, sql.ErrNoRows) || err == nil && bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
		return "", errNoLogin
	}
	if err != nil {
		return "", err
	}
	token = rand.Text()
	_, err = s.db.ExecContext(ctx, `INSERT INTO logins VALUES (?, ?, ?)`, digest(token), name, expires.Unix())
	return token, err
}

// customer returns the customer whose login the token is, and when it ends.
func (s *store) customer(ctx context.Context, token string) (name string, expires time.Time, err error) {
	var unix int64
	err = s.db.QueryRowContext(ctx, `SELECT customer, expires FROM logins WHERE token = ?`, digest(token)).Scan(&name, &unix)
	expires = time.Unix(unix, 0)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !expires.After(time.Now()) {
		return "", time.Time{}, errNoLogin
	}
	return name, expires, err
}

func (s *store) logout(ctx context.Context, token string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM logins WHERE token = ?`, digest(token))
	return err
}

// digest is what the database has of a token, so that nobody who reads the database can
// log in with it.
func digest(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// An order is what its customer sees of it.
type order struct {
	ID      int64  `json:"id"`
	Version int64  `json:"version"` // of two states of an order, the higher one is newer
	Item    string `json:"item"`
	State   string `json:"state"` // paid, then shipped
}

func (s *store) buy(ctx context.Context, customer, item string) (o order, err error) {
	o = order{Item: item, State: "paid"}
	err = s.db.QueryRowContext(ctx, `INSERT INTO orders (customer, item) VALUES (?, ?) RETURNING id, version`, customer, item).Scan(&o.ID, &o.Version)
	return o, err
}

func (s *store) orders(ctx context.Context, customer string) ([]order, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, version, item, state FROM orders WHERE customer = ? ORDER BY id`, customer)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	orders := []order{}
	for rows.Next() {
		var o order
		if err := rows.Scan(&o.ID, &o.Version, &o.Item, &o.State); err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}

// ship marks the oldest paid order as shipped. It returns sql.ErrNoRows if there is none.
func (s *store) ship(ctx context.Context) (id int64, err error) {
	err = s.db.QueryRowContext(ctx, `UPDATE orders SET state = 'shipped', version = version + 1
		WHERE id = (SELECT min(id) FROM orders WHERE state = 'paid') RETURNING id`).Scan(&id)
	return id, err
}

// untold returns the oldest shipped order whose customer was not told, or sql.ErrNoRows.
func (s *store) untold(ctx context.Context) (o order, customer string, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT id, version, item, state, customer FROM orders
		WHERE state = 'shipped' AND NOT told ORDER BY id LIMIT 1`).Scan(&o.ID, &o.Version, &o.Item, &o.State, &customer)
	return o, customer, err
}

func (s *store) setTold(ctx context.Context, id int64) error {
	_, err := s.db.ExecContext(ctx, `UPDATE orders SET told = 1 WHERE id = ?`, id)
	return err
}
