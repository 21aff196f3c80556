//go:build nodes

package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// devicePlugin offers devices that do not exist, so that pods that ask for an
// extended resource (rdma/hca) can run. A device, say rdma-hca-3, is unhealthy
// for as long as a file of its name is in the folder `unhealthy`.
type devicePlugin struct {
	api.UnimplementedDevicePluginServer
	resource  string
	count     int
	unhealthy string
}

func (p *devicePlugin) name() string { return strings.ReplaceAll(p.resource, "/", "-") }

func (p *devicePlugin) socket() string { return api.DevicePluginPath + p.name() + ".sock" }

func (p *devicePlugin) devices() (devices []*api.Device) {
	for i := range p.count {
		device := &api.Device{ID: fmt.Sprintf("%s-%d", p.name(), i), Health: api.Healthy}
		if _, err := os.Stat(filepath.Join(p.unhealthy, device.ID)); err == nil {
			device.Health = api.Unhealthy
		}
		devices = append(devices, device)
	}
	return devices
}

func (p *devicePlugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *devicePlugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	said := ""
	for stream.Context().Err() == nil {
		devices := p.devices()
		if now := fmt.Sprint(devices); now != said {
			if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
			said = now
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}

func (p *devicePlugin) Allocate(_ context.Context, asked *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	name := strings.ToUpper(strings.NewReplacer("/", "_", ".", "_", "-", "_").Replace(p.resource))
	for _, container := range asked.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &api.ContainerAllocateResponse{
			Envs: map[string]string{"TEST_DEVICES_" + name: strings.Join(container.DevicesIds, ",")},
		})
	}
	return answer, nil
}

// serve registers the plugin with the kubelet and serves it until that restarts:
// a new kubelet removes all plugins' sockets, and expects them to come again.
func (p *devicePlugin) serve() error {
	socket := p.socket()
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go server.Serve(listener)

	kubelet, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer kubelet.Close()
	_, err = api.NewRegistrationClient(kubelet).Register(context.Background(), &api.RegisterRequest{
		Version: api.Version, Endpoint: filepath.Base(socket), ResourceName: p.resource,
	}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for err == nil {
		time.Sleep(200 * time.Millisecond)
		_, err = os.Stat(socket)
	}
	return err
}

// runDevicePlugin is the program `device-plugin UNHEALTHY_FOLDER RESOURCE=COUNT...`.
func runDevicePlugin() {
	// The kubelet makes its own socket at its start, and removes all others.
	for {
		if _, err := os.Stat(api.KubeletSocket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	failed := make(chan error)
	for _, arg := range os.Args[2:] {
		resource, number, _ := strings.Cut(arg, "=")
		count, err := strconv.Atoi(number)
		if err != nil {
			log.Fatalf("device-plugin: %q is not RESOURCE=COUNT", arg)
		}
		go func() {
			failed <- (&devicePlugin{resource: resource, count: count, unhealthy: os.Args[1]}).serve()
		}()
	}
	log.Fatal("device-plugin: ", <-failed)
}
