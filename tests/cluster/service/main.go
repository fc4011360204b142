// A small HTTP service for tests on a cluster: it answers with its version, counts its answers, and fails as its
// environment says. Its failures are spread evenly, so that 0.05 is one request in twenty. With the argument `pause` it
// only waits: the container that holds a pod's network.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Upper bounds of the histogram's buckets, in seconds.
var bounds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5}

// A variable as a number; zero if it is not set.
func number(name string) float64 {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || value < 0 {
		log.Fatalf("%s=%s: expected a number from 0", name, text)
	}
	return value
}

// Says yes to a share of the questions.
type share struct{ of, sum float64 }

func (s *share) hit() bool {
	s.sum += s.of
	// A share such as 0.05 is not exact in binary: twenty of them must make one.
	if s.sum < 1-1e-9 {
		return false
	}
	s.sum--
	return true
}

type service struct {
	version     string
	delay, slow time.Duration
	mutex       sync.Mutex
	errors      share
	slowed      share
	codes       map[int]int
	buckets     []int
	seconds     float64
}

func (s *service) answer(response http.ResponseWriter, _ *http.Request) {
	begin := time.Now()
	s.mutex.Lock()
	failed, wait := s.errors.hit(), s.delay
	if s.slowed.hit() {
		wait += s.slow
	}
	s.mutex.Unlock()
	time.Sleep(wait)
	code, text := http.StatusOK, s.version
	if failed {
		code, text = http.StatusInternalServerError, s.version+" broke"
	}
	response.Header().Set("version", s.version)
	response.WriteHeader(code)
	fmt.Fprintln(response, text)
	s.count(code, time.Since(begin).Seconds())
}

func (s *service) count(code int, seconds float64) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.codes[code]++
	place := 0
	for place < len(bounds) && seconds > bounds[place] {
		place++
	}
	s.buckets[place]++
	s.seconds += seconds
}

func (s *service) metrics(response http.ResponseWriter, _ *http.Request) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	response.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintln(response, "# TYPE http_requests_total counter")
	for _, code := range []int{http.StatusOK, http.StatusInternalServerError} {
		fmt.Fprintf(response, "http_requests_total{code=\"%d\"} %d\n", code, s.codes[code])
	}
	name, sum := "http_request_duration_seconds", 0
	fmt.Fprintln(response, "# TYPE", name, "histogram")
	for place, count := range s.buckets {
		sum += count
		bound := "+Inf"
		if place < len(bounds) {
			bound = strconv.FormatFloat(bounds[place], 'g', -1, 64)
		}
		fmt.Fprintf(response, "%s_bucket{le=%q} %d\n", name, bound, sum)
	}
	fmt.Fprintf(response, "%s_sum %g\n%s_count %d\n", name, s.seconds, name, sum)
}

func (s *service) health(response http.ResponseWriter, _ *http.Request) {
	if os.Getenv("FAIL_HEALTH") == "1" {
		response.WriteHeader(http.StatusServiceUnavailable)
	}
}

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		<-stop
		return
	}
	milliseconds := func(name string) time.Duration { return time.Duration(number(name) * float64(time.Millisecond)) }
	s := &service{
		version: os.Getenv("VERSION"), codes: map[int]int{}, buckets: make([]int, len(bounds)+1),
		delay: milliseconds("DELAY_MS"), slow: milliseconds("SLOW_MS"),
		errors: share{of: number("ERROR_RATIO")}, slowed: share{of: number("SLOW_RATIO")},
	}
	if after := milliseconds("EXIT_AFTER_MS"); after > 0 {
		time.AfterFunc(after, func() { log.Fatal("told to exit") })
	}
	http.HandleFunc("/", s.answer)
	http.HandleFunc("/healthz", s.health)
	http.HandleFunc("/metrics", s.metrics)
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			log.Fatal(err)
		}
	}()
	<-stop
	// Whoever still has this address gets an answer for a moment.
	time.Sleep(300 * time.Millisecond)
	_ = server.Shutdown(context.Background())
}
