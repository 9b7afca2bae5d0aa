// The same work as tests/bench/core_bench.c, under the same names, in Go: bench NAME PROCS prints
// nanoseconds per operation.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"
)

var begin time.Time

func report(operations int64) {
	fmt.Printf("%.2f\n", float64(time.Since(begin).Nanoseconds())/float64(operations))
}

func benchYield() {
	const yields = 2000000
	var wg sync.WaitGroup
	wg.Add(2)
	begin = time.Now()
	for i := 0; i < 2; i++ {
		go func() {
			for i := 0; i < yields; i++ {
				runtime.Gosched()
			}
			wg.Done()
		}()
	}
	wg.Wait()
	report(2 * yields)
}

func benchPingpong() {
	const trips = 1000000
	there, back := make(chan int32), make(chan int32)
	go func() {
		for v := range there {
			back <- v
		}
	}()
	begin = time.Now()
	for i := int32(0); i < trips; i++ {
		there <- i
		<-back
	}
	report(trips)
}

func benchSpawn() {
	const spawns, rounds = 1000, 1000
	var wg sync.WaitGroup
	ended := func() { wg.Done() }
	begin = time.Now()
	for r := 0; r < rounds; r++ {
		wg.Add(spawns)
		for i := 0; i < spawns; i++ {
			go ended()
		}
		wg.Wait()
	}
	report(spawns * rounds)
}

func stream(capacity int, items int32) {
	c := make(chan int32, capacity)
	var sum int64
	begin = time.Now()
	go func() {
		for i := int32(0); i < items; i++ {
			c <- i
		}
		close(c)
	}()
	for v := range c {
		sum += int64(v)
	}
	report(int64(items))
	if sum != int64(items)*int64(items-1)/2 {
		panic("wrong sum")
	}
}

func skynet(up chan int64, num, size int64) {
	if size == 1 {
		up <- num
		return
	}
	c := make(chan int64)
	for i := int64(0); i < 10; i++ {
		go skynet(c, num+i*(size/10), size/10)
	}
	var sum int64
	for i := 0; i < 10; i++ {
		sum += <-c
	}
	up <- sum
}

func benchSkynet() {
	c := make(chan int64)
	begin = time.Now()
	go skynet(c, 0, 1000000)
	sum := <-c
	report(1)
	if sum != 499999500000 {
		panic("wrong sum")
	}
}

func filter(in, out chan int32, prime int32) {
	for v := range in {
		if v%prime != 0 {
			out <- v
		}
	}
}

func benchSieve() {
	c := make(chan int32)
	begin = time.Now()
	go func(c chan int32) {
		for i := int32(2); ; i++ {
			c <- i
		}
	}(c)
	var prime int32
	for i := 0; i < 500; i++ {
		prime = <-c
		out := make(chan int32)
		go filter(c, out, prime)
		c = out
	}
	report(1)
	if prime != 3571 {
		panic("wrong prime")
	}
}

const locks = 8000000

var (
	mutex   sync.Mutex
	guarded int64
)

func lockMany(n int) {
	for i := 0; i < n; i++ {
		mutex.Lock()
		guarded++
		mutex.Unlock()
	}
}

func benchContended() {
	const contenders = 8
	var wg sync.WaitGroup
	wg.Add(contenders)
	begin = time.Now()
	for i := 0; i < contenders; i++ {
		go func() {
			lockMany(locks / contenders)
			wg.Done()
		}()
	}
	wg.Wait()
	report(locks)
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		fmt.Println(runtime.Version())
		return
	}
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bench NAME PROCS")
		os.Exit(2)
	}
	procs, err := strconv.Atoi(os.Args[2])
	if err != nil || procs < 1 {
		fmt.Fprintln(os.Stderr, "bench: PROCS is a number > 0")
		os.Exit(2)
	}
	runtime.GOMAXPROCS(procs)
	benches := map[string]func(){
		"yield": benchYield, "pingpong": benchPingpong, "spawn": benchSpawn,
		"buffered":   func() { stream(128, 3000000) },
		"unbuffered": func() { stream(0, 1000000) },
		"skynet":     benchSkynet, "sieve": benchSieve,
		"mutex":     func() { begin = time.Now(); lockMany(locks); report(locks) },
		"contended": benchContended,
	}
	bench, ok := benches[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "bench: no benchmark is called", os.Args[1])
		os.Exit(2)
	}
	bench()
}
