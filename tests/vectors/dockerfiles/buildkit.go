// Prints the image configurations that BuildKit's Dockerfile frontend makes of Dockerfiles, without running anything.
// make.py builds it inside a checkout of github.com/moby/buildkit.
// In: a JSON list of {"name", "dockerfile", "arguments"}. Out: a JSON object of name to {"config"} or {"error"}.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

type noImages struct{}

func (noImages) ResolveImageConfig(context.Context, string, sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return "", "", nil, errors.New("no registry here")
}

func main() {
	var cases []struct {
		Name       string            `json:"name"`
		Dockerfile string            `json:"dockerfile"`
		Arguments  map[string]string `json:"arguments"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	made := map[string]any{}
	for _, c := range cases {
		opt := dockerfile2llb.ConvertOpt{MetaResolver: noImages{}, TargetPlatform: &platform}
		opt.Config = dockerui.Config{BuildArgs: c.Arguments, BuildPlatforms: []ocispecs.Platform{platform}}
		result, err := dockerfile2llb.Dockerfile2LLB(context.Background(), []byte(c.Dockerfile), opt)
		if err != nil {
			made[c.Name] = map[string]any{"error": err.Error()}
		} else {
			made[c.Name] = map[string]any{"config": result.Image.Config}
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(made); err != nil {
		panic(err)
	}
}
