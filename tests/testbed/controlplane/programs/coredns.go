//go:build nodes

package main

import (
	"log"
	"os"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	// Only the plugins that the Corefile of the test cluster names.
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

// runCoreDNS is the program `coredns COREFILE`. CoreDNS's own main package would
// add its flags (-version, -p) to all the other programs here.
func runCoreDNS() {
	if len(os.Args) != 2 {
		log.Fatal("usage: coredns COREFILE")
	}
	contents, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal("coredns: ", err)
	}
	caddy.AppName, caddy.Quiet = "CoreDNS", true
	dnsserver.Port = dnsserver.DefaultPort
	caddy.TrapSignals()
	server, err := caddy.Start(caddy.CaddyfileInput{
		Contents: contents, Filepath: os.Args[1], ServerTypeName: "dns",
	})
	if err != nil {
		log.Fatal("coredns: ", err)
	}
	server.Wait()
}
