// Victims in Go: `victim_go MODE` ends in one way, each in a function of its own. The table in
// catalogue.py says what each is to be called.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"time"
)

type book struct {
	symbol string
	levels []int
}

func nilDereference() {
	var b *book
	fmt.Println(len(b.levels))
}

func panicText() { panic("the order book is crossed") }

func panicError() { panic(fmt.Errorf("settle: %w", errors.New("no such account"))) }

func index() {
	levels := make([]int, 3)
	n := len(os.Args) + 5
	levels[n] = 1
}

func division() {
	n := len(os.Args) - 2
	fmt.Println(10 / n)
}

func inGoroutine() {
	go panicText()
	time.Sleep(time.Minute)
}

func asleep() {
	c := make(chan int)
	<-c
}

func mutexCircle() {
	var one, two sync.Mutex
	var both sync.WaitGroup
	both.Add(2)
	take := func(first, second *sync.Mutex) {
		first.Lock()
		both.Done()
		both.Wait()
		second.Lock()
	}
	go take(&two, &one)
	take(&one, &two)
}

func recurse(n int) int { return recurse(n+1) + 1 }

func stackOverflow() { fmt.Println(recurse(0)) }

func mapRace() {
	m := map[int]int{}
	for i := 0; i < 8; i++ {
		go func() {
			for j := 0; ; j++ {
				m[j%7] = j
			}
		}()
	}
	time.Sleep(time.Minute)
}

var blocks [][]byte

func outOfMemory() {
	for {
		blocks = append(blocks, make([]byte, 1<<42))
	}
}

func exitThree() {
	fmt.Fprintln(os.Stderr, "error: no venue configured")
	os.Exit(3)
}

func logFatal() { log.Fatal("cannot open the journal") }

func recovered() {
	func() {
		defer func() { fmt.Fprintln(os.Stderr, "recovered:", recover()) }()
		panic("survived")
	}()
	fmt.Fprintln(os.Stderr, "error: no venue configured")
	os.Exit(2)
}

func waits() {
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

func busyLoop() {
	fmt.Println("ready")
	n := 1
	for n != 0 {
		n = n*3 | 1
	}
}

func main() {
	modes := map[string]func(){
		"nil_dereference": nilDereference, "panic_text": panicText, "panic_error": panicError,
		"index": index, "division": division, "in_goroutine": inGoroutine, "asleep": asleep,
		"mutex_circle": mutexCircle, "stack_overflow": stackOverflow, "map_race": mapRace,
		"out_of_memory": outOfMemory, "exit_three": exitThree, "log_fatal": logFatal,
		"recovered": recovered, "waits": waits, "busy_loop": busyLoop,
	}
	modes[os.Args[1]]()
}
